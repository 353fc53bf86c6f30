"""Kombu's classes without the types that celery-types gives them, which describe another transport's attributes, and
what Celery keeps of the worker in this process."""

from __future__ import annotations

import sys
from typing import Any

import celery
import kombu
import kombu.transport
import kombu.transport.base
from kombu.transport import virtual as _virtual

virtual: Any = _virtual
base: Any = kombu.transport.base
transports: Any = kombu.transport
Connection: Any = kombu.Connection


def worker_state() -> Any:
    """Celery's module `celery.worker.state`; None in a process that is no worker, which has not loaded it."""
    return sys.modules.get("celery.worker.state")


def acks_early(task: Any) -> bool:
    """Whether this process is a worker that acknowledges tasks of this name before they run."""
    if worker_state() is None or not isinstance(task, str):
        return False
    known = celery.current_app.tasks.get(task)
    return known is not None and not known.acks_late
