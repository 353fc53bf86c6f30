"""A task that a gevent or eventlet worker ends, because it shuts down cold or has lost its connection.

Celery kills its greenlet, and takes that for a success, so that a task with late acknowledgement is acknowledged: it is
lost. Here nothing is reported of such a greenlet. Its request has been reported by what has killed it
(`Request.cancel`, `Request.terminate`); the message of one that was canceled runs again. Unnecessary once Celery's
pools report no success there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

_POOLS = ("gevent", "eventlet")


def install() -> None:
    """Patch the pools that are loaded. Calling it again changes nothing."""
    for name in _POOLS:
        module: Any = sys.modules.get(f"celery.concurrency.{name}")
        if module is not None and not hasattr(module.TaskPool.on_apply, "celery_postgres"):
            module.TaskPool.on_apply = _applying(module.TaskPool.on_apply)
            module.TaskPool.terminate_job = _terminating(module.TaskPool.terminate_job)


def _terminating(original: Any) -> Any:
    @wraps(original)
    def terminate_job(self: Any, pid: Any, signal: Any = None) -> Any:
        greenlet = self._pool_map.get(pid)
        if greenlet is not None:
            greenlet.celery_postgres_killed = True
        return original(self, pid, signal)

    return terminate_job


def _applying(original: Any) -> Any:
    @wraps(original)
    def on_apply(
        self: Any, target: Any, args: Any = None, kwargs: Any = None, callback: Any = None, **named: Any
    ) -> Any:
        return original(self, target, args, kwargs, callback and _unless_killed(self, callback), **named)

    on_apply.celery_postgres = True  # type: ignore[attr-defined]
    return on_apply


def _unless_killed(pool: Any, callback: Any) -> Callable[[Any], Any]:
    def report(result: Any) -> Any:
        # The pools make (False, None, None) of a killed one; a task that has ended has its time in the third place.
        killed = isinstance(result, tuple) and len(result) == 3 and result[2] is None
        if killed and getattr(pool.getcurrent(), "celery_postgres_killed", False):
            return None
        return callback(result)

    # The request, for `error_isolation`.
    report.__self__ = getattr(callback, "__self__", None)  # type: ignore[attr-defined]
    return report
