"""Kombu's classes without the types that celery-types gives them, which describe another transport's attributes, and
what Celery keeps of the worker in this process."""

from __future__ import annotations

import sys
from typing import Any

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
