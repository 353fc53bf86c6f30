"""Several messages in one statement: its parameters, and what becomes of what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_postgres.database.envelope import Addressed, columns
from celery_postgres.database.unique import report, unique_columns
from celery_postgres.errors import NotPublishedError

LOCK_NOT_AVAILABLE = "55P03"


def has_unique(messages: Sequence[Addressed]) -> bool:
    """Whether one of them has a unique key: then it is known after the publish which of them are new."""
    return any(one.unique is not None for _, one in messages)


def together(messages: Sequence[Addressed]) -> dict[str, Any]:
    envelopes = [envelope for _, envelope in messages]
    admitted = all(envelope.admitted for envelope in envelopes)
    return {"queues": [queue for queue, _ in messages], "admitted": admitted, **columns(envelopes)}


def queues_of(messages: Sequence[Addressed], numbers: list[int] | None) -> list[str]:
    """The queues of the messages with these numbers (from 1), each once."""
    return list(dict.fromkeys(messages[number - 1][0] for number in numbers or ()))


def unique_parameters(messages: Sequence[Addressed]) -> dict[str, Any]:
    envelopes = [envelope for _, envelope in messages]
    return {
        "queues": [queue for queue, _ in messages],
        **columns(envelopes),
        **unique_columns([one.unique for one in envelopes]),
    }


def without(messages: Sequence[Addressed], firsts: Any) -> list[Addressed]:
    """The messages whose unique keys no other task holds."""
    known = {int(number) for number, *_ in firsts or ()}
    return [one for number, one in enumerate(messages, 1) if number not in known]


def published(messages: Sequence[Addressed], missing: list[int] | None, firsts: Any) -> list[str]:
    report([envelope.unique for _, envelope in messages], firsts)
    return queues_of(messages, missing)


def impatient(error: Exception) -> NotPublishedError | None:
    """The error of a publish that has waited for too long for another one of the same key."""
    code = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    if code != LOCK_NOT_AVAILABLE:
        return None
    rest = ", and the caller's transaction can only be rolled back" if isinstance(error, NotPublishedError) else ""
    return NotPublishedError(
        "not published: a transaction that has published a task of the same unique key has not ended within 5 s (or "
        f"the session's lock_timeout, if that is less){rest}; try again",
        code,
    )
