"""`Task.retry` while the broker is unreachable.

Celery rejects a message whose retry could not be published. It would be a dead letter, and its task without a state,
because the database was away for a moment.
"""

from __future__ import annotations

import logging
import time
from functools import wraps
from typing import Any

import psycopg2
from celery.app.task import Task
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from celery_postgres.database.backoff import Backoff
from celery_postgres.errors import SchemaError, is_lasting, loggable

logger = logging.getLogger(__name__)

#: How long a retry that cannot be published is tried again. Then its message is released, to run again.
PATIENCE_S = 30.0


def install(transport: type) -> None:
    """For tasks whose broker is of this class; a second time changes nothing."""
    if not hasattr(Task.retry, "celery_postgres"):
        Task.retry = _persistent(Task.retry, transport)  # type: ignore[method-assign]


def _persistent(original: Any, transport: type) -> Any:
    @wraps(original)
    def retry(self: Any, *arguments: Any, **options: Any) -> Any:
        pauses, end = Backoff(), time.monotonic() + PATIENCE_S
        while True:
            try:
                return original(self, *arguments, **options)
            except Reject as rejected:
                cause: Any = rejected.reason  # type: ignore[attr-defined]
                passing = isinstance(cause, psycopg2.Error | SchemaError | OperationalError) and not is_lasting(cause)
                if not passing or not isinstance(self.app.connection_for_write().transport, transport):
                    raise
                if time.monotonic() >= end:
                    if self.acks_late:
                        raise Reject(cause, requeue=True) from cause
                    raise cause from None  # its message is acknowledged: the task fails
                pause = pauses.failed()
                why = loggable(cause.__cause__ or cause)
                logger.warning("a retry cannot be published (%s); next try in %.2f s", why, pause)
                time.sleep(pause)

    retry.celery_postgres = True  # type: ignore[attr-defined]
    return retry
