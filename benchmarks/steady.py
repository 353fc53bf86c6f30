"""A worker at full speed on a queue that is kept at one length."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers import Broker
from benchmarks.worker import Worker

#: Messages added at once.
_STEP = 500


class Feeder:
    """Keeps ``backlog`` messages in a queue by the worker's own account, without asking the broker.

    :ivar given: how many messages it has added so far.
    """

    def __init__(self, broker: Broker, backlog: int) -> None:
        self._broker = broker
        self._backlog = backlog
        self.given = 0

    def fill(self) -> None:
        """Bring the queue to its length before a worker starts."""
        self._broker.fill(1, self._backlog)
        self._broker.refill(1)
        self.given += self._backlog + 1

    def feed(self, worker: Worker, seconds: float, begin: int = 0) -> None:
        """Replace what the worker takes, for so long.

        :param begin: how many tasks had run elsewhere before this worker started.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and worker.is_running():
            missing = self._backlog - (self.given - begin - worker.journal.refresh())
            if missing >= min(_STEP, self._backlog // 2):
                self._broker.refill(missing)
                self.given += missing
            else:
                time.sleep(0.02)


def window(records: list[tuple[int, int, int]], spent: dict[str, float], skip_s: float = 1.0) -> dict[str, Any]:
    """Rate after the first second, in which a worker finds its pace, and CPU of worker and server a task.

    The CPU holds still when others use the processors, which the rate does not.
    """
    starts = sorted(start for _, start, _ in records)
    if not starts:
        return {"rate": 0.0, "tasks": 0, "cpu_us": None}
    kept = [start for start in starts if start >= starts[0] + skip_s * 1e9]
    cpu_us = (spent["worker"] + spent["server"]) / len(starts) * 1e6
    span = (kept[-1] - kept[0]) / 1e9 if len(kept) > 1 else 0.0
    return {"rate": (len(kept) - 1) / span if span else 0.0, "tasks": len(starts), "cpu_us": cpu_us}
