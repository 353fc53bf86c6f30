"""Unique keys: of the messages of a queue that hold a key, each key has one."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeGuard
from uuid import UUID

from celery_postgres.errors import DuplicateTaskError, FlowError

#: How long a message holds its key, as `kombu_message.unique_until` has it.
UNTIL = {"started": 1, "done": 2}
#: Added to it, if no other message may replace this one: what follows it, or an earlier attempt, would be lost.
_FIXED = 2
CONFLICTS = ("return", "raise", "replace")
MAX_KEY_LENGTH = 200
#: A debounced task starts after so many times its delay, unless the publisher sets another bound.
LONGEST_DELAYS = 10
#: Ten years.
_MAX_DELAY_S = 315_360_000.0


def _unheard(_: str) -> None:
    """The publisher does not ask for the id of the first task."""


@dataclass(slots=True)
class Unique:
    """How a message holds its key, and what becomes of it if another message does.

    Attributes:
        key: the hash of the tenant, the task's name and the key.
        until: one of `UNTIL`, and perhaps `_FIXED`.
        conflict: one of `CONFLICTS`, or `keep` for a retry, which is published in any case.
        marker: what stands for the task's id in the payload; None if the id does.
        ends_at: when the task expires.
        delay_s: a debounced task starts so many seconds after the last publish,
        longest_s: and at most so many after the first.
        found: is called with the id of the task that holds the key, if it is another.
    """

    key: str
    until: int
    conflict: str
    marker: str | None = None
    ends_at: datetime | None = None
    delay_s: float | None = None
    longest_s: float | None = None
    found: Callable[[str], None] = field(default=_unheard)


def unique_of(
    headers: Mapping[str, Any], task_id: str | None, tenant_id: str | None, ends_at: datetime | None
) -> Unique | None:
    """The unique key of a task with these headers, if it has one.

    Raises:
        FlowError: one of the headers is wrong. The text quotes none.
    """
    key = headers.get("unique_key")
    if key is None:
        _check_without_key(headers)
        return None
    checked_unique_key(key)
    task = headers.get("task")
    if not isinstance(task, str) or task_id is None:
        raise FlowError("a unique_key needs a task with a name, and an id of at most 250 characters (task_protocol 2)")
    until = headers.get("unique_until", "started")
    if not isinstance(until, str) or until not in UNTIL:
        raise FlowError("unique_until is started or done")
    conflict = headers.get("unique_conflict", "return")
    if conflict not in CONFLICTS:
        raise FlowError(f"unique_conflict is {', '.join(CONFLICTS)}")
    delay_s, longest_s = checked_debounce(headers.get("debounce"))
    if headers.get("retries"):
        if until == "started":
            return None  # its first run has freed the key
        conflict, delay_s, longest_s = "keep", None, None
    is_part = headers.get("group") is not None or bool(headers.get("unique_part"))
    if is_part and conflict != "keep":
        conflict = "raise"  # the result of the group, the chord or the chain would be waited for without end
    if delay_s is not None:
        if headers.get("eta") is not None or conflict == "raise":
            raise FlowError("a debounced task has no eta, is no part of a group, and does not raise")
        conflict = "replace"
    scope = json.dumps([tenant_id, task, key])
    digest = hashlib.sha256(scope.encode()).digest()
    return Unique(
        key=str(UUID(bytes=digest[:16])),
        until=UNTIL[until] + (_FIXED if is_part or conflict == "keep" else 0),
        conflict=conflict,
        marker=secrets.token_hex(16) if conflict == "replace" else None,
        ends_at=ends_at,
        delay_s=delay_s,
        longest_s=longest_s,
    )


def _check_without_key(headers: Mapping[str, Any]) -> None:
    """A retry may lack it, as an older release published it: its task is not lost."""
    if headers.get("debounce") is not None:
        raise FlowError("debounce needs a unique_key: the tasks of one key are debounced together")
    for name in ("unique_until", "unique_conflict"):
        if headers.get(name) is not None and not headers.get("retries"):
            raise FlowError(f"{name} needs a unique_key: without one a task is not unique")


def checked_unique_key(key: object) -> str:
    """The same key.

    Raises:
        FlowError: it is no text, empty, or has more than 200 characters. The error does not quote it.
    """
    if not isinstance(key, str) or not key:
        what = "an empty one" if key == "" else type(key).__name__
        raise FlowError(f"a unique_key is a text of 1 to {MAX_KEY_LENGTH} characters, not {what}")
    if len(key) > MAX_KEY_LENGTH:
        raise FlowError(f"a unique_key has at most {MAX_KEY_LENGTH} characters; this one has {len(key)}")
    return key


def checked_debounce(debounce: object) -> tuple[float, float] | tuple[None, None]:
    """The delay and the longest delay, in seconds.

    Args:
        debounce: both, or the first alone; None for none.

    Raises:
        FlowError: it is neither.
    """
    if debounce is None:
        return None, None
    given = list(debounce) if isinstance(debounce, tuple | list) else [debounce]
    seconds = [float(one) for one in given if _is_delay(one)]
    if len(seconds) == 1 and not isinstance(debounce, tuple | list):
        return seconds[0], min(LONGEST_DELAYS * seconds[0], _MAX_DELAY_S)
    if len(seconds) == len(given) == 2 and seconds[0] <= seconds[1]:
        return seconds[0], seconds[1]
    raise FlowError(
        "debounce is a number of seconds above 0, or two: the delay, and the longest after the first publish"
    )


def _is_delay(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MAX_DELAY_S


def unique_columns(uniques: Sequence[Unique | None]) -> dict[str, list[Any]]:
    """The parameters of a statement that publishes messages with these unique keys."""
    return {
        "unique_keys": [one and one.key for one in uniques],
        "unique_untils": [one and one.until for one in uniques],
        "unique_ends": [one and one.ends_at for one in uniques],
        "conflicts": [one and one.conflict for one in uniques],
        "markers": [one and one.marker for one in uniques],
        "delays": [one and one.delay_s for one in uniques],
        "longests": [one and one.longest_s for one in uniques],
    }


def report(uniques: Sequence[Unique | None], firsts: Sequence[Sequence[Any]] | None) -> None:
    """Tell the publishers whose key another task holds.

    Args:
        firsts: the number (from 1) of the message, the id of that task, and whether that `waits`, `runs` or was
            `replaced`.

    Raises:
        DuplicateTaskError: a publisher wants this error, or wanted to replace what already runs.
    """
    refused: DuplicateTaskError | None = None
    for number, task_id, state in firsts or ():
        unique = uniques[int(number) - 1]
        if unique is None:
            continue
        unique.found(task_id)
        if unique.conflict == "raise" or (unique.conflict == "replace" and state != "replaced"):
            refused = refused or DuplicateTaskError(task_id, state)
    if refused is not None:
        raise refused
