"""A task with an ETA is held by the database, and runs as soon as it is delivered.

Celery puts each task that has an ETA on its worker's timer, which goes by the worker's clock, and in a solo worker is a
second thread that runs tasks. The task, its retries, signals and events are to see the ETA all the same, so the timer
that Celery's strategies get hands back what is due.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Timer:
    """A worker's timer, but for messages that are due: their work is left in the message, for who delivers it."""

    def __init__(self, timer: Any) -> None:
        self._timer = timer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._timer, name)

    def call_at(self, eta: float, work: Callable[..., Any], args: Any = (), *rest: Any, **options: Any) -> Any:
        message = getattr(args[0], "message", None) if args else None
        if not getattr(message, "due", False):
            return self._timer.call_at(eta, work, args, *rest, **options)
        # Not now: Celery 5.7 notes the task as scheduled after this, and its work ends that.
        message.work = functools.partial(work, *args)  # type: ignore[union-attr]
        return None


def work_of(message: Any) -> None:
    """Do what a strategy wanted done when the message is due."""
    work, message.work = getattr(message, "work", None), None
    if work is not None:
        work()


def with_timer(original: Any) -> Any:
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
