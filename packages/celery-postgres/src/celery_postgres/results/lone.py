"""The result of a worker's only task, stored by the thread of the task.

The writer's thread would begin 0.3 to 0.8 ms later, when it gets the interpreter from the thread that goes on to claim.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from celery_postgres.consumer import registry
from celery_postgres.database.result_store import ResultStore
from celery_postgres.results.unfinished import includes_all
from celery_postgres.results.write import Write


class LoneResults:
    """Used by one thread at a time.

    Attributes:
        took_s: how long the latest commit of results has taken.
    """

    #: While a commit takes longer (a slow disk, a standby, a lock), only the writer's thread waits for it.
    BRIEF_S = 0.005

    def __init__(self, store: ResultStore, settled: Callable[..., None]) -> None:
        self.took_s = 0.0
        self._store, self._settled = store, settled

    def includes(self, write: Write) -> bool:
        """Whether this result is one: it is that of the only task that this worker has."""
        return self.took_s < self.BRIEF_S and write.is_plain and includes_all([write])

    def record(self, write: Write) -> bool:
        """Store it; False if that has failed. Storing it again changes nothing."""
        begun, (outcome,) = time.monotonic(), write.outcomes
        try:
            with self._store.woken_if_slow([outcome]):
                self._store.record_one(outcome, write.claim, _sleeper(write))
        except Exception:  # of any kind: the writer's thread tries again, and reports it
            return False
        self.took_s = time.monotonic() - begun
        if write.claim is not None:
            self._settled([write.claim], early=True)
        return True


def _sleeper(write: Write) -> int | None:
    """This process as a consumer, if this is the thread that claims messages for it, as in the solo pool."""
    if threading.current_thread() is not threading.main_thread():
        return None
    heartbeats = registry.heartbeats()
    if len(heartbeats) > 1:
        heartbeats = [one for one in heartbeats if write.claim is not None and one.claims.is_carried(write.claim)]
    return heartbeats[0].consumer or None if heartbeats else None
