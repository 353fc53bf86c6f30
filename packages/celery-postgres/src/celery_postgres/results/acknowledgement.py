"""Which message a task's final state acknowledges, and when a task must run again instead."""

from __future__ import annotations

import re
from typing import Any

from celery.exceptions import Reject, TimeLimitExceeded

from celery_postgres.compat.publish_patience import was_sending
from celery_postgres.database.message_store import Claim, claim_of
from celery_postgres.errors import is_temporary

_TAG = re.compile(r"\d+\.\d+")


def claim_of_task(request: Any) -> Claim | None:
    """The message of a task, by its delivery tag; None if this package's transport did not deliver it."""
    tag = (getattr(request, "properties", None) or {}).get("delivery_tag")
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        return None
    return claim_of(tag)


def is_acknowledged(task: Any, error: BaseException | None) -> bool:
    """Whether Celery certainly acknowledges the message of a task because of its final state.

    Celery does not if the task has raised Reject: 5.7 stores that as a failure, and rejects the message afterwards.
    """
    if task is None or not task.acks_late or isinstance(error, Reject):
        return False
    if error is None:
        return True
    # Celery 5.7 has a setting for each, which it fills from the one that 5.6 has.
    which = "acks_on_timeout" if isinstance(error, TimeLimitExceeded) else "acks_on_failure"
    return bool(getattr(task, which, task.acks_on_failure_or_timeout))


def continuation_not_sent(error: BaseException) -> bool:
    """Whether the task itself succeeded, but Celery could not send what follows it (a link, the rest of its chain, what
    replaces it), because a database was unreachable."""
    return is_temporary(error) and was_sending(error)
