"""When a worker's tasks begin and how they end, as its main process hears of it from every pool.

Celery tells the request of a task, by methods that pools call: a prefork child's report arrives there too, and so does
the end of a child that was killed. Signals are sent in the process that runs the task, none for a killed one, and
events only where they are switched on. Unnecessary once Celery sends signals for both in the main process.
"""

from __future__ import annotations

import sys
from functools import wraps
from importlib import import_module
from typing import Any, Protocol

from billiard import einfo
from celery.exceptions import TaskPredicate, Terminated

_WRAPPED: Any = getattr(einfo, "ExceptionWithTraceback", ())


class Progress(Protocol):
    """What wants to know; the attribute `progress` of a message."""

    def began(self, name: str, at: float) -> None:
        """The task began, by the monotonic clock."""
        ...

    def ended(self, how: str, ran_s: float | None = None) -> None:
        """The attempt ended: `done`, `failed` or `retried`. The first call counts.

        Args:
            ran_s: seconds; anything but a float stands for the time until now.
        """
        ...


class _Uncounted:
    """Of the messages of other transports, and where nothing is counted."""

    def began(self, name: str, at: float) -> None: ...

    def ended(self, how: str, ran_s: float | None = None) -> None: ...


_UNCOUNTED: Progress = _Uncounted()


def install() -> None:
    """Patch Celery's strategies, if this process is a worker. Calling it again changes nothing."""
    if "celery.worker.consumer.consumer" not in sys.modules:
        return
    strategy: Any = import_module("celery.worker.strategy")
    if not hasattr(strategy.create_request_cls, "celery_postgres"):
        strategy.create_request_cls = _telling(strategy.create_request_cls)


def _telling(original: Any) -> Any:
    @wraps(original)
    def create_request_cls(*arguments: Any, **options: Any) -> Any:
        return _taught(original(*arguments, **options))

    create_request_cls.celery_postgres = True  # type: ignore[attr-defined]
    return create_request_cls


def _taught(request: Any) -> Any:
    """Let a class of requests tell the `progress` of its message.

    Celery makes the class for one task, so its methods are replaced. A class derived from it would run the
    `__init_subclass__` of an application's own requests once more, which counted each success twice.
    """
    accepted, succeeded, failed = request.on_accepted, request.on_success, request.on_failure
    retried, timed_out = request.on_retry, request.on_timeout

    def on_accepted(self: Any, pid: Any, time_accepted: Any) -> Any:
        getattr(self._message, "progress", _UNCOUNTED).began(self.name, time_accepted)
        return accepted(self, pid, time_accepted)

    def on_success(self: Any, failed__retval__runtime: Any, **named: Any) -> Any:
        if not failed__retval__runtime[0]:  # else Celery goes on with `on_failure`
            getattr(self._message, "progress", _UNCOUNTED).ended("done", failed__retval__runtime[2])
        return succeeded(self, failed__retval__runtime, **named)

    def on_failure(self: Any, exc_info: Any, *rest: Any, **named: Any) -> Any:
        error = exc_info.exception
        if isinstance(error, _WRAPPED):
            error = error.exc
        if not isinstance(error, TaskPredicate | Terminated):  # retried, ignored, rejected, revoked
            getattr(self._message, "progress", _UNCOUNTED).ended("failed")
        return failed(self, exc_info, *rest, **named)

    def on_retry(self: Any, exc_info: Any) -> Any:
        getattr(self._message, "progress", _UNCOUNTED).ended("retried")
        return retried(self, exc_info)

    def on_timeout(self: Any, soft: Any, timeout: Any) -> Any:
        if not soft:
            getattr(self._message, "progress", _UNCOUNTED).ended("failed")
        return timed_out(self, soft, timeout)

    for replacement in (on_accepted, on_success, on_failure, on_retry, on_timeout):
        setattr(request, replacement.__name__, replacement)
    return request
