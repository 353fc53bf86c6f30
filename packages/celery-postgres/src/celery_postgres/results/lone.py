"""The result of a worker's only task, stored by the thread of the task.

The writer's thread would begin 0.3 to 0.8 ms later, when it gets the interpreter from the thread that goes on to claim.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from celery_postgres.consumer.heartbeat import Heartbeat
from celery_postgres.database.result_store import ResultStore
from celery_postgres.results.unfinished import includes_all
from celery_postgres.results.write import Write


class LoneResults:
    """Used by the main thread: in the solo pool it runs the tasks and claims. In other threads a task would take a
    connection more, and the next claim does not wait for it.

    Attributes:
        took_s: how long the latest commit of results has taken.
    """

    #: While a commit takes longer (a slow disk, a standby, a lock), only the writer's thread waits for it.
    BRIEF_S = 0.005

    def __init__(
        self, store: ResultStore, settled: Callable[..., None], heartbeat: Callable[[], Heartbeat | None]
    ) -> None:
        self.took_s = 0.0
        self._store, self._settled, self._heartbeat = store, settled, heartbeat

    def includes(self, write: Write) -> bool:
        """Whether this result is one: it is that of the only task that this worker has."""
        return (
            self.took_s < self.BRIEF_S
            and threading.current_thread() is threading.main_thread()
            and write.is_plain
            and includes_all([write])
            and self._heartbeat() is not None
        )

    def record(self, write: Write) -> bool:
        """Store it; False if that has failed. Storing it again changes nothing."""
        begun, (outcome,), heartbeat = time.monotonic(), write.outcomes, self._heartbeat()
        try:
            sleeper = None if heartbeat is None else heartbeat.sleeper
            with self._store.woken_if_slow([outcome]):
                self._store.record_one(outcome, write.claim, sleeper)
            if heartbeat is not None and sleeper is not None:
                heartbeat.slept()
        except Exception:  # of any kind: the writer's thread tries again, and reports it
            self.took_s = self.BRIEF_S
            return False
        self.took_s = time.monotonic() - begun
        if write.claim is not None:
            self._settled([write.claim], early=True)
        return True
