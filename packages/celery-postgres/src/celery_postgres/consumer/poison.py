"""Poison messages: those that make their consumer fail outside any task.

The form of a message is checked before it is delivered (`message_checks`). Something may fail all the same: a signal's
receiver, a task's own `on_failure`, a part of Celery that a new release brings. In a worker such an error counts as a
failure of the message, as the death of its process would: the worker goes on, and after `max_failures` the message is
a dead letter. Messages without acks (events, remote control) are dropped. In other programs the error reaches the
program, unless it is raised by the parts of Celery and Kombu that a client uses.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

from amqp.exceptions import AMQPError
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from celery_postgres.compat.upstream import worker_state
from celery_postgres.consumer import message_checks
from celery_postgres.database import driver
from celery_postgres.database.per_process import PerProcess
from celery_postgres.errors import NotPublishedError, SchemaError

logger = logging.getLogger(__name__)

#: Errors that any message would meet: the broker or the machine is at fault.
_NOT_THE_MESSAGE = (driver.Error, SchemaError, NotPublishedError, OperationalError, AMQPError, OSError, MemoryError)
#: The same for a message without acks, whose consumer may publish parts of it: what the driver or the database refuses
#: is the message's fault. A lost connection is not.
_LOST = (*driver.LOST_CONNECTION, SchemaError, OperationalError, MemoryError)
_LIBRARIES = frozenset({"celery", "kombu", "vine", "amqp", "billiard", "celery_postgres"})


class _Process:
    is_worker = False


_process = PerProcess(_Process)


def note_worker() -> None:
    """This process consumes tasks."""
    _process.value.is_worker = True


def in_worker() -> bool:
    """Whether this process is a worker. The modules that it has imported do not show that."""
    return _process.value.is_worker


def is_poison(error: Exception, message: Any = None) -> bool:
    """Whether the error that a message's consumer has raised is the message's fault, and is dealt with here."""
    return in_worker() and (not isinstance(error, _NOT_THE_MESSAGE) or bool(message is not None and message.errors))


def is_to_be_dropped(error: Exception, message: Any, kind: str | None) -> bool:
    """The same for a message without acks. In a client the errors of a handler reach the client, unless the message is
    an event that lacks what Celery's events have."""
    if isinstance(error, _LOST):
        return False
    return in_worker() or (
        kind is not None and (_is_a_librarys(error) or (kind == message_checks.EVENT and not _whole(message)))
    )


def _whole(message: Any) -> bool:
    try:
        return message_checks.is_whole(message)
    except Exception:  # the handler has changed it
        return False


def _is_a_librarys(error: Exception) -> bool:
    """Whether Celery or Kombu raised it, or called the part of Python that raised it."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in sys.stdlib_module_names:
            return package in _LIBRARIES
    return False


def described(error: BaseException) -> str:
    """The type of an error and where it was raised. Its own text may quote the message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "/".join(frame.filename.replace("\\", "/").split("/")[-3:])
    return f"{type(error).__name__} at {place}:{frame.lineno}"


def settle(request: Any, error: Exception) -> bool:
    """Release the message of a task as a failure, unless it is acknowledged, and let the worker forget the task.

    Returns:
        Whether the error is dealt with.
    """
    ours, rejected = is_poison(error), isinstance(error, Reject)
    if ours and not rejected:
        logger.error("A task fails outside its body: %s", described(error))  # without the stack: it could quote
    if not request.acknowledged:
        request.reject(requeue=error.requeue if rejected else True)  # type: ignore[attr-defined]
    worker_state().task_ready(request)
    return ours


def forget(message: Any) -> None:
    """Let Celery forget a task that it may have reserved: it would show it, and wait for it, until its process ends."""
    for request in list(worker_state().reserved_requests):
        if request.message is message:
            worker_state().task_ready(request)
