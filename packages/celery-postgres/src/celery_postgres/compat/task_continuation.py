"""`Task.retry` and `Task.replace` within a caller's transaction.

Both publish what goes on with the task, and then raise an exception, which rolls back a transaction around them. The
message would be rolled back too, and the task lost. So they publish at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

from celery.app.task import Task


def install(at_once: Callable[[], AbstractContextManager[None]]) -> None:
    """Patch Celery's `Task`. Calling it again changes nothing.

    Args:
        at_once: a block in which messages are part of no transaction.
    """
    for name in ("retry", "replace"):
        method = getattr(Task, name)
        if not hasattr(method, "celery_postgres_at_once"):
            setattr(Task, name, _outside(method, at_once))


def _outside(method: Any, at_once: Callable[[], AbstractContextManager[None]]) -> Any:
    @wraps(method)
    def outside(*arguments: Any, **options: Any) -> Any:
        with at_once():
            return method(*arguments, **options)

    outside.celery_postgres_at_once = True  # type: ignore[attr-defined]
    return outside
