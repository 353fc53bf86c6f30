"""Kombu's classes, and what Celery records about the worker in this process.

The classes are untyped here: celery-types describes the attributes of other transports.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import celery
import kombu
import kombu.transport
import kombu.transport.base
from billiard import util as _billiard
from celery import _state
from kombu.transport import virtual as _virtual

virtual: Any = _virtual
billiard_util: Any = _billiard
base: Any = kombu.transport.base
transports: Any = kombu.transport
Connection: Any = kombu.Connection
_apps: Any = _state


def worker_state() -> Any:
    """Celery's module `celery.worker.state`; None in a process that has not loaded it, and so is not a worker."""
    return sys.modules.get("celery.worker.state")


def tasks_to_finish() -> set[str]:
    """Ids of the tasks that this process will finish although their channel closes.

    When Celery loses a connection it discards the tasks that it has reserved and expects the broker to deliver them
    again, but not the tasks that run, nor those that a ThreadPoolExecutor has accepted. When Celery shuts down it runs
    the tasks that it has reserved.
    """
    state = worker_state()
    if state is None:
        return set()
    busy = {request.id for request in list(state.active_requests)}
    reserved = list(state.reserved_requests)
    if state.should_stop is not None or state.should_terminate is not None:
        return busy | {request.id for request in reserved}
    if "celery.concurrency.thread" in sys.modules:
        busy |= {request.id for request in reserved if getattr(request, "_apply_result", None) is not None}
    return busy


def outlive_main_process() -> None:
    """In a prefork child on Linux: have the kernel no longer kill this process when its worker's main process ends, as
    Celery asks it to. The caller sees to it instead.

    Linux keeps that request with the thread that has made it: the main thread, which also runs the tasks."""
    with contextlib.suppress(OSError):
        billiard_util.set_pdeathsig(0)


def task_of(name: str) -> Any:
    """The task of this name, of any application of this process; None if none has it yet. It finalizes none."""
    for app in list(_apps._get_active_apps()):
        if (found := app._tasks.get(name)) is not None:
            return found
    return None


def acks_early(task: Any) -> bool:
    """Whether this process is a worker that acknowledges tasks of this name before they run."""
    if worker_state() is None or not isinstance(task, str):
        return False
    known = celery.current_app.tasks.get(task)
    return known is not None and not known.acks_late


def tasks_by_ack() -> tuple[list[str], list[str]] | None:
    """The names of the application's tasks that this worker acknowledges before they run, and of those after; None if
    this process is no worker."""
    if worker_state() is None:
        return None
    tasks = {name: task for name, task in celery.current_app.tasks.items() if not name.startswith("celery.")}
    early = sorted(name for name, task in tasks.items() if not task.acks_late)
    return early, sorted(tasks.keys() - set(early))
