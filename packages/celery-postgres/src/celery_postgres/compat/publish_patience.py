"""Sending what follows a task while a database is unreachable.

What Celery sends for a task (its links, the rest of its chain, its errbacks, its retry, what replaces it) it tries for
0.6 s. Then it makes a success a failure, forgets an errback, and rejects the message of a retry, which would become a
dead letter. Here a worker goes on trying for `PATIENCE_S`. Then a task that is acknowledged late runs again after a
pause: its message has not failed. Unnecessary once Celery requeues the message when such a publish fails with a
connection error.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import traceback
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any, Protocol

from celery import Celery
from celery._state import get_current_task
from celery.app.task import Task
from celery.exceptions import Reject, SoftTimeLimitExceeded

logger = logging.getLogger(__name__)

#: How long a publish is tried again.
PATIENCE_S = 30.0
#: A value of `Reject.requeue`: the message runs again later, and has not failed.
AFTER_A_PAUSE: Any = "after a pause"
#: Runs a task. Before Celery 5.6 it sends the links, and the rest of the chain, itself.
_TRACE = ("celery.app.trace", "trace_task")
_DISPATCH = ("celery.app.trace", "_dispatch_callbacks_and_chain")
_REPLACE = ("celery.app.task", "replace")
#: The functions of Celery that send what follows a task.
_FOLLOWING = frozenset({
    _DISPATCH,
    _REPLACE,
    ("celery.backends.base", "_call_task_errbacks"),
    ("celery.app.task", "retry"),
})  # fmt: skip
#: A chord's end, which maintenance tries again.
_TRIED_AGAIN = ("celery_postgres.results.backend", "send_body")


class Pauses(Protocol):
    """Growing pauses between attempts."""

    def failed(self) -> float:
        """The next pause, in seconds."""
        ...


def install(
    transport: type,
    is_temporary: Callable[[BaseException | None], bool],
    loggable: Callable[[BaseException], Any],
    new_pauses: Callable[[], Pauses],
) -> None:
    """Patch Celery, for applications whose broker is of this class. Calling it again changes nothing.

    Args:
        is_temporary: whether the same publish may succeed later.
        loggable: what a log line may say of an error.
    """
    if not hasattr(Celery.send_task, "celery_postgres"):
        Celery.send_task = _patient(Celery.send_task, transport, is_temporary, loggable, new_pauses)  # type: ignore[method-assign]
        Task.retry = _released(Task.retry, transport, is_temporary)  # type: ignore[method-assign]


def _patient(
    original: Any,
    transport: type,
    is_temporary: Callable[[BaseException | None], bool],
    loggable: Callable[[BaseException], Any],
    new_pauses: Callable[[], Pauses],
) -> Any:
    """`send_task`, through which each message of a task goes."""

    @wraps(original)
    def send_task(self: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return original(self, *arguments, **options)
        except Exception as error:
            if not is_temporary(error) or not _follows(sys._getframe()) or not _is_ours(self, transport):
                raise
            cause: BaseException = error
        # A group gives all its tasks one producer, whose channel does not come back.
        options = {name: value for name, value in options.items() if name not in ("producer", "publisher")}
        pauses, end = new_pauses(), time.monotonic() + _patience_s()
        while time.monotonic() < end:
            pause = pauses.failed()
            logger.warning("Cannot send what follows a task (%s); next try in %.2f s", loggable(cause), pause)
            with contextlib.suppress(SoftTimeLimitExceeded):  # of the task, which has ended
                time.sleep(pause)
            try:
                return original(self, *arguments, **options)
            except Exception as error:
                if not is_temporary(error):
                    raise
                cause = error
        raise cause

    send_task.celery_postgres = True  # type: ignore[attr-defined]
    return send_task


def was_sending(error: BaseException) -> bool:
    """Whether a task has this error because its links, the rest of its chain, or what replaces it could not be sent."""
    names = [_name(frame) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return _REPLACE in names or any(map(_sends, names[:3], names[1:4]))


def _name(frame: FrameType) -> tuple[str, str]:
    return str(frame.f_globals.get("__name__")), frame.f_code.co_name


def _sends(caller: tuple[str, str], callee: tuple[str, str]) -> bool:
    return caller == _DISPATCH or (caller == _TRACE and callee[0] == "celery.canvas")


def _follows(frame: FrameType | None) -> bool:
    """Whether what is sent here follows the task that this thread of a worker runs."""
    task: Any = get_current_task()
    if task is None or task.request.called_directly or task.request.is_eager:
        return False
    callee = ("", "")
    while frame is not None and (name := _name(frame)) != _TRIED_AGAIN:
        if name in _FOLLOWING or _sends(name, callee):
            return True
        frame, callee = frame.f_back, name
    return False


def _patience_s() -> float:
    """None for a task that would be killed at its time limit, although it has succeeded, and can run again instead."""
    task: Any = get_current_task()
    hard, _ = task.request.timelimit or (None, None)
    return 0.0 if task.acks_late and (hard or task.time_limit) else PATIENCE_S


def _is_ours(app: Any, transport: type) -> bool:
    return isinstance(app.connection_for_write().transport, transport)


def _released(original: Any, transport: type, is_temporary: Callable[[BaseException | None], bool]) -> Any:
    """`Task.retry`, which rejects the message of a retry that could not be published."""

    @wraps(original)
    def retry(self: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return original(self, *arguments, **options)
        except Reject as rejected:
            cause: Any = rejected.reason  # type: ignore[attr-defined]
            if not is_temporary(cause) or not _is_ours(self.app, transport):
                raise
            if self.acks_late:
                raise Reject(cause, requeue=AFTER_A_PAUSE) from cause
            raise cause from None  # its message is acknowledged: the task fails

    retry.celery_postgres = True  # type: ignore[attr-defined]
    return retry
