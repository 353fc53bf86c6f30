"""The places where Celery lets an error of one task take more with it than that task.

An error outside a task's body (while its failure is stored, in a receiver of a signal) keeps a thread's credit and a
child's slot for ever, and in the worker's own thread it ends the worker. So the error ends where the task was handed
over, and its message counts a failure: see `poison.settle`.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from celery_postgres.consumer import poison

_POOLS = ("base", "solo", "thread", "gevent", "eventlet")


def install() -> None:
    """For the parts of Celery's worker that are loaded; a second time changes nothing."""
    for name in _POOLS:
        module = sys.modules.get(f"celery.concurrency.{name}")
        if module is not None and not hasattr(module.apply_target, "celery_postgres"):
            module.apply_target = _applying(module.apply_target)  # type: ignore[attr-defined]
    module = sys.modules.get("celery.worker.worker")
    if module is not None and not hasattr(module.WorkController._process_task, "celery_postgres"):
        module.WorkController._process_task = _processing(module.WorkController._process_task)


def _applying(original: Any) -> Any:
    """What runs a task in the pools that have no processes of their own: in a thread nobody looks at its error."""

    @wraps(original)
    def apply_target(
        target: Any, args: Any = (), kwargs: Any = None, callback: Any = None, *rest: Any, **named: Any
    ) -> Any:
        try:
            return original(target, args, kwargs, callback, *rest, **named)
        except Exception as error:
            request = getattr(callback, "__self__", None)
            if not hasattr(request, "acknowledged") or not poison.settle(request, error):
                raise

    apply_target.celery_postgres = True  # type: ignore[attr-defined]
    return apply_target


def _processing(original: Any) -> Any:
    """What hands a task to the pool, also long after its message came: when a slot or a rate limit allows."""

    @wraps(original)
    def _process_task(self: Any, request: Any) -> None:
        try:
            original(self, request)
        except Exception as error:
            if self.pool.uses_semaphore and hasattr(self, "_quick_release"):
                self._quick_release()
            if not poison.settle(request, error):
                raise

    _process_task.celery_postgres = True  # type: ignore[attr-defined]
    return _process_task
