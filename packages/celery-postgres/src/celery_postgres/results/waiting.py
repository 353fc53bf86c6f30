"""Waiting until tasks have ended."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator
from typing import Any

from celery.exceptions import TimeoutError as NotInTime

from celery_postgres.database import driver
from celery_postgres.database.result_store import Outcome
from celery_postgres.errors import UnstorableResultError
from celery_postgres.results.columns import LONGEST_ID
from celery_postgres.results.several import Watcher


def ended(
    read: Callable[[list[str]], list[Outcome]],
    listener: Watcher,
    task_ids: list[str],
    timeout: float | None,
    on_interval: Callable[[], Any] | None,
    *,
    wait: bool = True,
) -> Generator[Outcome]:
    """The outcome of each task, as soon as it has ended.

    Args:
        read: the outcomes of those tasks that have ended.
        timeout: in seconds; with 0 or less the results are read once.
        on_interval: called after each task and each second.
        wait: False ends the iteration after the tasks that have ended already.

    Raises:
        celery.exceptions.TimeoutError: not all of them have ended in time.
        UnstorableResultError: an id is longer than any that is stored.
    """
    if any(len(task_id) > LONGEST_ID for task_id in task_ids):
        raise UnstorableResultError(f"there is no result of a task whose id has more than {LONGEST_ID} characters")
    deadline = None if timeout is None else time.monotonic() + timeout
    missing = dict.fromkeys(task_ids)
    try:
        known = read(list(missing))
    except driver.LOST_CONNECTION:
        if not wait:
            raise
        known = []  # the server restarts: the listener reads them as soon as it can connect
    for outcome in known:
        del missing[outcome.task_id]
    watched = list(missing) if wait and (timeout is None or timeout > 0) else []
    arrived: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    sink = arrived.put
    if watched:
        listener.watch(watched, sink)
    try:
        for outcome in known:
            yield outcome
            if on_interval:
                on_interval()
        while missing and wait:
            next_outcome = _next(arrived, deadline, on_interval)
            if next_outcome is None:
                continue
            missing.pop(next_outcome.task_id, None)
            yield next_outcome
            if on_interval:
                on_interval()
    finally:
        if missing and watched:
            listener.unwatch(list(missing), sink)


def _next(
    arrived: queue.SimpleQueue[Outcome], deadline: float | None, on_interval: Callable[[], Any] | None
) -> Outcome | None:
    """The next outcome; None if none has arrived within a second."""
    pause = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
    try:
        return arrived.get(timeout=max(pause, 0.0))
    except queue.Empty:
        if on_interval:
            on_interval()
        if deadline is not None and time.monotonic() >= deadline:
            raise NotInTime("The operation timed out.") from None
        return None
