"""What is remembered of an attempt that a worker has ended without success."""

from __future__ import annotations

import time
from typing import Any

from celery import signals

from celery_postgres.database.attempt_store import EndedAttempt
from celery_postgres.results.calls import kept_traceback
from celery_postgres.results.columns import short, text
from celery_postgres.results.description import description_of, history_of

RETRIED, FAILED, REVOKED = "retried", "failed", "revoked"
_REMEMBERED = "celery_postgres_remembered"


def attempt_of(task_id: Any, state: str, error: Any, traceback: Any, request: Any) -> EndedAttempt | None:
    """The attempt that ends now; None if no worker has run it.

    Args:
        error: the exception, or a reason.
        traceback: its text.
        request: Celery's; None where a client or the maintenance stores a state.
    """
    if request is None or not isinstance(task_id, str) or getattr(request, "is_eager", False):
        return None
    if getattr(request, _REMEMBERED, None) == state:  # Celery reports a task that a time limit has killed twice
        return None
    setattr(request, _REMEMBERED, state)
    history = history_of(request)
    return EndedAttempt(
        task_id=text(task_id),
        state=state,
        **description_of(request),
        **{name: history[name] for name in ("tenant_id", "published_at", "due_at", "started_at")},
        ended_at=time.time(),
        error=_kind(error),
        traceback=None if traceback is None else kept_traceback(error, text(traceback)),
    )


def _kind(error: Any) -> str | None:
    """The type of an exception: its text may quote values. Celery's reason of a revoke, which is a word."""
    if isinstance(error, BaseException):
        # Of an exception that cannot be pickled Celery keeps the name.
        return short(getattr(error, "exc_cls_name", None) or type(error).__name__)
    return short(error) or None


@signals.task_retry.connect(weak=False)
def _remember_ignored(sender: Any, request: Any, reason: Any, einfo: Any, **_: Any) -> None:
    """Of a task that ignores its result, Celery stores no state RETRY: this signal is all that there is."""
    remember = getattr(sender.backend, "remember_retry", None)
    if remember is not None and getattr(request, _REMEMBERED, None) != RETRIED:
        remember(request, reason.exc, einfo.traceback)
