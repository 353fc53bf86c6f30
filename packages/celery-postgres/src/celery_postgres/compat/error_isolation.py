"""Errors of one task that Celery lets end more than that task.

An error outside a task's body (while its failure is stored, in a receiver of a signal) keeps a thread's credit or a
child's slot forever, and in the worker's own thread it ends the worker. Here the error ends where the task was handed
over, and its message counts a failure (`poison.settle`). Unnecessary once Celery's pools settle the request of a task
whose target raises.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

#: Settles the request whose handling raised this error; returns whether the error is dealt with.
Settle = Callable[[Any, Exception], bool]

_POOLS = ("base", "solo", "thread", "gevent", "eventlet")


def install(settle: Settle) -> None:
    """Patch the parts of Celery's worker that are loaded. Calling it again changes nothing."""
    for name in _POOLS:
        pool: Any = sys.modules.get(f"celery.concurrency.{name}")
        if pool is not None and not hasattr(pool.apply_target, "celery_postgres"):
            pool.apply_target = _applying(pool.apply_target, settle)
    worker: Any = sys.modules.get("celery.worker.worker")
    if worker is not None and not hasattr(worker.WorkController._process_task, "celery_postgres"):
        worker.WorkController._process_task = _processing(worker.WorkController._process_task, settle)


def _applying(original: Any, settle: Settle) -> Any:
    """`apply_target`, which runs a task in the pools without processes: in a thread its errors go unnoticed."""

    @wraps(original)
    def apply_target(
        target: Any, args: Any = (), kwargs: Any = None, callback: Any = None, *rest: Any, **named: Any
    ) -> Any:
        try:
            return original(target, args, kwargs, callback, *rest, **named)
        except Exception as error:
            request = getattr(callback, "__self__", None)
            if not hasattr(request, "acknowledged") or not settle(request, error):
                raise

    apply_target.celery_postgres = True  # type: ignore[attr-defined]
    return apply_target


def _processing(original: Any, settle: Settle) -> Any:
    """`_process_task`, which hands a task to the pool, also long after its delivery: when a slot or a rate limit
    allows."""

    @wraps(original)
    def _process_task(self: Any, request: Any) -> None:
        try:
            original(self, request)
        except Exception as error:
            if self.pool.uses_semaphore and hasattr(self, "_quick_release"):
                self._quick_release()
            if not settle(request, error):
                raise

    _process_task.celery_postgres = True  # type: ignore[attr-defined]
    return _process_task
