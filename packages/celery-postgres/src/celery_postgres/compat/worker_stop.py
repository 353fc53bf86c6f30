"""Stopping a worker whose main thread waits for its broker.

Celery's loop publishes the worker's heartbeat event every two seconds. Where the broker cannot be reached Kombu then
tries to connect, without end and within the loop, which so never sees that the worker was told to stop. Celery asks in
the same way where it connects by itself (`maybe_shutdown` in `celery.worker.consumer`). Unnecessary once the event is
not tried again.
"""

from __future__ import annotations

import threading

from celery import _state

from celery_postgres.compat.upstream import worker_state


def stop_if_told() -> None:
    """Call this where connecting has failed.

    Raises:
        celery.exceptions.WorkerShutdown: the worker was told to stop, and this is its main thread, outside of a task.
        celery.exceptions.WorkerTerminate: the same, if it was told to stop at once.
    """
    state = worker_state()
    if state is None or threading.current_thread() is not threading.main_thread():
        return
    if _state.get_current_worker_task() is None:
        state.maybe_shutdown()
