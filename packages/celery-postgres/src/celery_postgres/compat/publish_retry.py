"""`Task.retry` while the broker is unreachable.

Celery rejects a message whose retry could not be published: it would become a dead letter, and its task would have no
state, because the database was unreachable for a moment. Unnecessary once `Task.retry` requeues the message when the
publish fails with a connection error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol

from celery.app.task import Task
from celery.exceptions import Reject

logger = logging.getLogger(__name__)

#: How long the publish of a retry is tried again. Then its message is released, to run again.
PATIENCE_S = 30.0


class Pauses(Protocol):
    """Growing pauses between attempts."""

    def failed(self) -> float:
        """The next pause, in seconds."""
        ...


def install(
    transport: type,
    is_temporary: Callable[[Any], bool],
    loggable: Callable[[BaseException], Any],
    new_pauses: Callable[[], Pauses],
) -> None:
    """Patch Celery's `Task`, for tasks whose broker is of this class. Calling it again changes nothing.

    Args:
        is_temporary: whether the same publish may succeed later.
        loggable: what a log line may say of an error.
    """
    if not hasattr(Task.retry, "celery_postgres"):
        Task.retry = _persistent(Task.retry, transport, is_temporary, loggable, new_pauses)  # type: ignore[method-assign]


def _persistent(
    original: Any,
    transport: type,
    is_temporary: Callable[[Any], bool],
    loggable: Callable[[BaseException], Any],
    new_pauses: Callable[[], Pauses],
) -> Any:
    @wraps(original)
    def retry(self: Any, *arguments: Any, **options: Any) -> Any:
        pauses, end = new_pauses(), time.monotonic() + PATIENCE_S
        while True:
            try:
                return original(self, *arguments, **options)
            except Reject as rejected:
                cause: Any = rejected.reason  # type: ignore[attr-defined]
                if not is_temporary(cause) or not isinstance(self.app.connection_for_write().transport, transport):
                    raise
                if time.monotonic() >= end:
                    if self.acks_late:
                        raise Reject(cause, requeue=True) from cause
                    raise cause from None  # its message is acknowledged: the task fails
                pause = pauses.failed()
                logger.warning("Cannot publish a retry (%s); next try in %.2f s", loggable(cause), pause)
                time.sleep(pause)

    retry.celery_postgres = True  # type: ignore[attr-defined]
    return retry
