"""Poison messages: those that make their consumer fail outside any task.

What a message looks like is checked before it is handed over (`checks`). Something may fail all the same: a signal's
receiver, a task's own `on_failure`, a part of Celery that a new release brings. In a worker such an error counts as a
failure of the message, as the death of its process would: the worker goes on, and after as many failures as any message
may have it is a dead letter. What is not acknowledged (events, remote control) is dropped. Elsewhere the error is the
program's own, and reaches it, unless it is raised by the parts of Celery and Kombu that a client uses.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Any

import psycopg2
from amqp.exceptions import AMQPError
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from celery_postgres.compat.upstream import worker_state
from celery_postgres.consumer import message_checks
from celery_postgres.errors import NotPublishedError, SchemaError

logger = logging.getLogger(__name__)

#: What befalls whatever message is at hand: the broker or the machine is at fault.
_NOT_THE_MESSAGE = (psycopg2.Error, SchemaError, NotPublishedError, OperationalError, AMQPError, OSError, MemoryError)
#: The same for a message that nobody acknowledges, whose consumer may publish what it says: what the driver or the
#: database refuses is the message's fault. A lost connection is not.
_LOST = (psycopg2.OperationalError, psycopg2.InterfaceError, SchemaError, OperationalError, MemoryError)
_LIBRARIES = frozenset({"celery", "kombu", "vine", "amqp", "billiard", "celery_postgres"})

_worker = False


def note_worker() -> None:
    """This process consumes tasks."""
    global _worker
    _worker = True


def in_worker() -> bool:
    """Whether this process is a worker. What it has imported does not say so."""
    return _worker


def is_poison(error: Exception, message: Any = None) -> bool:
    """Whether the error that a message's consumer has raised is the message's fault, and ours to deal with."""
    return _worker and (not isinstance(error, _NOT_THE_MESSAGE) or bool(message is not None and message.errors))


def is_to_be_dropped(error: Exception, message: Any, kind: str | None) -> bool:
    """The same for a message that is not acknowledged. In a client a handler's own error reaches it, except of an event
    that Celery does not send so."""
    if isinstance(error, _LOST):
        return False
    return _worker or (
        kind is not None and (_is_a_librarys(error) or (kind == message_checks.EVENT and not _whole(message)))
    )


def _whole(message: Any) -> bool:
    try:
        return message_checks.is_whole(message)
    except Exception:  # its handler has changed it
        return False


def _is_a_librarys(error: Exception) -> bool:
    """Whether Celery or Kombu raised it, or called what raised it of Python's own."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in sys.stdlib_module_names:
            return package in _LIBRARIES
    return False


def described(error: BaseException) -> str:
    """Which error and where it was raised. Its own text may quote the message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "/".join(frame.filename.replace("\\", "/").split("/")[-3:])
    return f"{type(error).__name__} at {place}:{frame.lineno}"


def settle(request: Any, error: Exception) -> bool:
    """Give a task's message back, and whatever the worker keeps for it; whether the error was its own.

    It counts as a failure of the message, and does nothing to one that is acknowledged.
    """
    ours, rejected = is_poison(error), isinstance(error, Reject)
    if ours and not rejected:
        # The template has no argument that is a text: the application's log leaves those out.
        logger.error(f"a task fails outside its body: {described(error)}")  # no stack: it may quote
    if not request.acknowledged:
        request.reject(requeue=error.requeue if rejected else True)  # type: ignore[attr-defined]
    worker_state().task_ready(request)
    return ours


def forget(message: Any) -> None:
    """Celery may have reserved the task, and would show it as such, and wait for it, until its process ends."""
    for request in list(worker_state().reserved_requests):
        if request.message is message:
            worker_state().task_ready(request)


def _forget_in_child() -> None:
    global _worker
    _worker = False


os.register_at_fork(after_in_child=_forget_in_child)
