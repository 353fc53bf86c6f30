"""What this process reports of itself with each heartbeat: its name, pool and slots, and the tasks that it runs.

Celery keeps the tasks that run in the worker's main process, whatever its pool and however they are acknowledged. The
heartbeat's thread reads that while the main thread changes it, and reports what it has read so far rather than wait.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from celery_postgres.compat.upstream import worker_state
from celery_postgres.consumer import poison
from celery_postgres.database.consumer_store import Report
from celery_postgres.database.names import printable
from celery_postgres.database.per_process import PerProcess

logger = logging.getLogger(__name__)

#: Tasks that a report names, the ones that run the longest: if the worker is lost, nothing else knows those that it had
#: acknowledged before they ran. All other consumers read the rows of consumers each 1.2 s, so long ids are fewer.
MOST_SHOWN, MOST_CHARACTERS = 50, 8_000
#: How often a set is read again that changes meanwhile.
_TRIES = 10
_NOTHING = Report()


class _Process:
    def __init__(self) -> None:
        self.worker: Any = None
        self.app_version: str | None = None
        self.latest = _NOTHING
        self.failed = False


_process = PerProcess(_Process)


def note_worker(worker: Any) -> None:
    """This process has this worker (Celery's `WorkController`)."""
    _process.value.worker = worker


def is_worker() -> bool:
    """Whether a worker of Celery is ready in this process."""
    return _process.value.worker is not None


def note_version(app_version: str | None) -> None:
    """The application that this process runs has this version."""
    if app_version is not None:
        _process.value.app_version = app_version


def report() -> Report:
    """What this worker is and does; nothing of a process that is no worker. It never fails: heartbeats depend on it."""
    here = _process.value
    if here.worker is None:
        return _NOTHING
    try:
        here.latest = _read(here.worker, here.app_version)
    except Exception:
        if not here.failed:
            logger.exception("This worker cannot report what it runs; everything else goes on")
        here.failed = True
    return here.latest


def drain() -> bool:
    """Let this worker end as after SIGTERM: it takes no new task, and ends when those that run have ended.

    Returns:
        False if it ends already, or is no worker.
    """
    state = worker_state()
    if state is None or not poison.in_worker() or is_ending():
        return False
    logger.warning("An operator drains this worker: it ends when its tasks have ended")
    state.should_stop = 0
    return True


def is_ending() -> bool:
    """Whether this process is a worker that was told to end."""
    state = worker_state()
    flags = () if state is None else (state.should_stop, state.should_terminate)
    return any(flag is not None and flag is not False for flag in flags)


def _read(worker: Any, app_version: str | None) -> Report:
    state = worker_state()
    running = _running(state.active_requests)
    shown = [
        {"id": printable(str(one.id)), "task": printable(str(one.name)), "for_s": round(max(0.0, for_s), 1)}
        for for_s, one in running[:MOST_SHOWN]
    ]
    while len(text := json.dumps(shown)) > MOST_CHARACTERS:
        shown = shown[: len(shown) // 2]
    return Report(
        name=printable(str(worker.hostname)),
        pool=_pool_of(worker.pool),
        slots=int(worker.pool.num_processes) if worker.pool is not None else None,
        app_version=app_version,
        busy=len(running),
        running=text if shown else None,
        draining=is_ending(),
    )


def _running(active: Any) -> list[tuple[float, Any]]:
    """The tasks that run and for how many seconds, the longest first."""
    now = time.time()
    requests: list[Any] = []
    for _ in range(_TRIES):
        try:
            requests = list(active)
            break
        except RuntimeError:  # it has changed meanwhile
            continue
    found = [(now - one.time_start, one) for one in requests if one.time_start]
    return sorted(found, key=lambda one: -one[0])


def _pool_of(pool: Any) -> str | None:
    """`prefork`, `threads`, `gevent` or another name of Celery's, or the name of a class."""
    if pool is None:
        return None
    package, _, module = type(pool).__module__.rpartition(".")
    if package != "celery.concurrency":
        return printable(type(pool).__name__)
    return "threads" if module == "thread" else module
