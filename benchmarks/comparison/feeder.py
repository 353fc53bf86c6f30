"""Keeps a queue at one length while a worker empties it."""

from __future__ import annotations

import time

from benchmarks.systems import Ground
from benchmarks.worker import Worker

#: Tasks added at once.
_STEP = 500


class Feeder:
    """Replaces what a worker takes, by the worker's own account and without asking the server.

    :ivar given: how many tasks it has added.
    """

    def __init__(self, ground: Ground, backlog: int) -> None:
        self._ground = ground
        self._backlog = backlog
        self.given = 0

    def fill(self, count: int | None = None) -> None:
        """Bring the queue to its length, or nearer to it."""
        more = self._backlog - self.given if count is None else count
        self._ground.fill(self.given + 1, more)
        self.given += more

    def feed(self, worker: Worker, seconds: float) -> None:
        """For so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and worker.is_running():
            missing = self._backlog - (self.given - worker.journal.refresh())
            if missing >= min(_STEP, self._backlog // 2):
                self.fill(missing)
            else:
                time.sleep(0.02)
