"""Tasks with an ETA wait in the database, and run as soon as they are delivered.

Celery puts each task that has an ETA on its worker's timer. The timer goes by the worker's clock, and in a solo worker
it is a second thread that runs tasks. The task, its retries, signals and events should still see the ETA, so the timer
that Celery's strategies get hands back the tasks that are due. Unnecessary once Celery's strategy skips the timer for a
transport that declares to deliver by ETA.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any


def install() -> None:
    """Patch Celery's worker, if it is loaded. Calling it again changes nothing."""
    loaded: Any = sys.modules.get("celery.worker.consumer.consumer")
    if loaded is not None and not hasattr(loaded.Consumer.update_strategies, "celery_postgres"):
        loaded.Consumer.update_strategies = _with_timer(loaded.Consumer.update_strategies)


class Timer:
    """A worker's timer, except for messages that are due: their work is stored in the message, for `work_of`."""

    def __init__(self, timer: Any) -> None:
        self._timer = timer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._timer, name)

    def call_at(self, eta: float, work: Callable[..., Any], args: Any = (), *rest: Any, **options: Any) -> Any:
        message = getattr(args[0], "message", None) if args else None
        if not getattr(message, "due", False):
            return self._timer.call_at(eta, work, args, *rest, **options)
        # Not now: Celery 5.7 records the task as scheduled after this call, and the work ends that.
        message.work = functools.partial(work, *args)  # type: ignore[union-attr]
        return None


def work_of(message: Any) -> None:
    """Do the work that a strategy has scheduled for the time when the message is due."""
    work, message.work = getattr(message, "work", None), None
    if work is not None:
        work()


def _with_timer(original: Any) -> Any:
    """`Consumer.update_strategies`, which makes the strategies: each keeps the timer that it sees then."""

    @functools.wraps(original)
    def update_strategies(self: Any, *arguments: Any, **options: Any) -> Any:
        timer = self.timer
        self.timer = Timer(timer)
        try:
            return original(self, *arguments, **options)
        finally:
            self.timer = timer

    update_strategies.celery_postgres = True  # type: ignore[attr-defined]
    return update_strategies
