"""Celery's request in the worker's main process: how each delivery began and how it ended.

In every pool the main process sees each delivery from acceptance to acknowledgement, including those whose process was
killed; signals inside a child do not. So this module counts, and counts a delivery once: when its message is settled. A
task that is redelivered because its process died counts `rejected` for the first delivery, and its outcome for the
second.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from billiard.exceptions import Terminated
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from celery.worker import state
from celery.worker.request import Request

from app.core.context import ENQUEUED_HEADER
from app.observability import metrics
from app.observability.faults import unwrap
from app.observability.queues import OTHER, queue_of

#: The request whose outcome this thread of the main process handles: its log lines do not name a task themselves.
handled_request: ContextVar[Request | None] = ContextVar("handled_request", default=None)
#: A header that claims a longer wait is not a clock reading of ours.
LONGEST_WAIT_S = 366 * 86_400.0

_latest = threading.local()


def find_request(task_id: str) -> Request | None:
    """The request of a task that this process received and has not settled, or is settling now."""
    newest = getattr(_latest, "request", None)
    for request in (handled_request.get(), newest and newest(), state.requests.get(task_id)):
        if request is not None and request.id == task_id:
            return request
    return None


class ObservedRequest(Request):
    """Celery's request, counted."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Celery derives a class per task (`create_request_cls`) whose on_success does not call the inherited one.
        if "on_success" in cls.__dict__:
            cls.on_success = _counted(cls.__dict__["on_success"])  # type: ignore[method-assign]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _latest.request = weakref.ref(self)

    @property
    def labels(self) -> tuple[str, str]:
        """Task and queue: registered and declared names only, whatever the message contains."""
        return self.task.name, queue_of(self.app, self.delivery_info) or OTHER

    @property
    def duration(self) -> float | None:
        """Seconds since the pool accepted the task; None if it never did."""
        return None if self.time_start is None else max(0.0, time.time() - self.time_start)

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        wait = self._wait()
        if wait is not None:
            metrics.observe_wait(self.labels[1], wait)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        token = handled_request.set(self)
        try:
            super().on_timeout(soft, timeout)
        finally:
            handled_request.reset(token)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        outcome = self._outcome(unwrap(exc_info.exception))
        if outcome is not None:
            metrics.count(*self.labels, outcome, self.duration)
        token = handled_request.set(self)
        try:
            super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        finally:
            handled_request.reset(token)

    def _outcome(self, error: BaseException) -> str | None:
        """The state to count; None where the signal `task_revoked` counts it, or nothing was settled."""
        if isinstance(error, Terminated):
            return None
        if isinstance(error, Reject):
            return "rejected"
        if isinstance(error, Ignore):
            return "ignored"
        if isinstance(error, Retry):
            return "retry"
        task = self.task
        if task.acks_late:
            goes_back = isinstance(error, WorkerLostError) and task.reject_on_worker_lost
            if goes_back or (isinstance(error, TimeLimitExceeded) and not task.acks_on_failure_or_timeout):
                return "rejected"
        return "failure"

    def _start_wanted(self) -> float:
        """When the task should start, in seconds since the epoch; 0 if at once."""
        return self.eta.timestamp() if self.eta else 0.0

    def _wait(self) -> float | None:
        """Seconds in the queue, from the later of publishing and ETA; None where that is unknown.

        It is also unknown for a redelivered message, whose clock began before its first delivery. (Stock Kombu's
        virtual transports lose that mark, and so count the first attempt as waiting.)
        """
        enqueued = self.request_dict.get(ENQUEUED_HEADER)
        if isinstance(enqueued, bool) or not isinstance(enqueued, int | float) or not math.isfinite(enqueued):
            return None
        if self.time_start is None or self.delivery_info.get("redelivered"):
            return None
        due = max(float(enqueued), self._start_wanted())
        wait = max(0.0, self.time_start - due)
        return wait if wait < LONGEST_WAIT_S else None


def _counted(on_success: Callable[..., None]) -> Callable[..., None]:
    def counted(self: ObservedRequest, failed__retval__runtime: Any, **options: Any) -> None:
        # A failure goes through on_failure, which counts it.
        if not failed__retval__runtime[0]:
            metrics.count(*self.labels, "success", self.duration)
        on_success(self, failed__retval__runtime, **options)

    return counted
