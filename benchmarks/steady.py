"""A worker at full speed on a queue that is kept at one length."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.journal import rate
from benchmarks.worker import Worker

#: Messages added at once.
_STEP = 500


class Feeder:
    """Keeps ``backlog`` tasks in a queue by the worker's own account, without asking the server.

    :param fill: adds so many, numbered from the first: ``fill(first, count)``.
    :param refill: adds so many more cheaply than that, while the worker runs: ``refill(count)``.
    :ivar given: how many tasks it has added so far.
    """

    def __init__(
        self,
        fill: Callable[[int, int], object],
        backlog: int,
        refill: Callable[[int], object] | None = None,
    ) -> None:
        self._fill = fill
        self._refill = refill
        self._backlog = backlog
        self.given = 0

    def fill(self, count: int | None = None) -> None:
        """Bring the queue to its length before a worker starts, or nearer to it by ``count``."""
        more = self._backlog - self.given if count is None else count
        self._fill(self.given + 1, more)
        self.given += more
        if self._refill is not None:
            # What it has to make beforehand is made before the clock starts.
            self._refill(1)
            self.given += 1

    def feed(self, worker: Worker, seconds: float) -> None:
        """Replace what the worker takes, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and worker.is_running():
            missing = self._backlog - (self.given - worker.journal.refresh())
            if missing < min(_STEP, self._backlog // 2):
                time.sleep(0.02)
                continue
            if self._refill is not None:
                self._refill(missing)
            else:
                self._fill(self.given + 1, missing)
            self.given += missing


def window(records: list[tuple[int, int, int]], spent: dict[str, float], skip_s: float = 1.0) -> dict[str, Any]:
    """Rate after the first second, in which a worker finds its pace, and CPU of worker and server a task.

    The CPU holds still when others use the processors, which the rate does not.
    """
    if not records:
        return {"rate": 0.0, "tasks": 0, "cpu_us": None}
    cpu_us = (spent["worker"] + spent["server"]) / len(records) * 1e6
    return {"rate": rate(records, skip_s), "tasks": len(records), "cpu_us": cpu_us}
