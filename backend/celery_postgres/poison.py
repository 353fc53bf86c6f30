"""Poison messages: those that make their consumer fail outside any task.

Celery checks little of a message before it runs the task: an id that is a list, a time limit that is no pair or a body
that is no list end the worker with "Unrecoverable error", and the next worker gets the message back. So in a worker
such an error counts as a failure of the message, as the death of its process would; the worker goes on if it can, and
after as many failures as any message may have it is a dead letter. Elsewhere the error is the program's own, and
reaches it.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

import psycopg2
from amqp.exceptions import AMQPError
from kombu.exceptions import OperationalError

from celery_postgres.errors import NotPublishedError, SchemaError
from celery_postgres.upstream import worker_state

#: What befalls whatever message is at hand: the broker or the machine is at fault.
_NOT_THE_MESSAGE = (psycopg2.Error, SchemaError, NotPublishedError, OperationalError, AMQPError, OSError, MemoryError)


class FlawError(ValueError):
    """What is wrong with a message, in words for a dead letter."""


def check(content: dict[str, Any]) -> None:
    """Look at what a worker would stumble over when the message is out of our hands: in the callbacks of its pool,
    where the message would stay claimed, and keep one of the worker's credits.

    Raises:
        FlawError: there is something.
    """
    headers = content.get("headers") or {}
    if "task" not in headers or worker_state() is None:
        return
    limits, stamps = headers.get("timelimit"), headers.get("stamped_headers")
    if limits not in (None, [None, None]) and not (
        isinstance(limits, list) and len(limits) == 2 and all(isinstance(one, int | float | None) for one in limits)
    ):
        raise FlawError("its time limits are no pair of numbers")
    if stamps is not None and not (isinstance(stamps, list) and all(isinstance(one, str) for one in stamps)):
        raise FlawError("its stamped headers are no list of names")
    if not isinstance(headers.get("shadow"), str | None):
        raise FlawError("its shadow is no name")


def is_poison(error: Exception) -> bool:
    """Whether the error that a message's consumer has raised is the message's fault, and ours to deal with."""
    return worker_state() is not None and not isinstance(error, _NOT_THE_MESSAGE)


def described(error: Exception) -> str:
    """Which error and where it was raised. Its own text may quote the message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "/".join(frame.filename.replace("\\", "/").split("/")[-3:])
    return f"{type(error).__name__} at {place}:{frame.lineno}"


def has_taken_a_child(message: Any) -> bool:
    """Whether the task was reserved in a prefork pool, whose slot for it Celery does not give back after such an error:
    a worker that went on would end up with no children to use, so it must end.
    """
    return "celery.concurrency.prefork" in sys.modules and bool(_reserved(message))


def forget(message: Any) -> None:
    """Celery may have reserved the task, and would show it as such, and wait for it, until its process ends."""
    for request in _reserved(message):
        worker_state().task_ready(request)


def _reserved(message: Any) -> list[Any]:
    return [request for request in list(worker_state().reserved_requests) if request.message is message]
