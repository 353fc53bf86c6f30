"""Half an hour at one pace, all systems side by side: do tables, memory and latency stay as they were?"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.cells import Cell
from benchmarks.figures import summary
from benchmarks.programs.publishing import SETTLING
from benchmarks.run import OVER_TIME, Run, worker_of
from benchmarks.systems import System
from benchmarks.systems.clusters import connect, sizes
from environment.testkit.children import spawn
from environment.testkit.measuring import memory

#: Tasks a second of each system: all four together leave half of two slow processors idle.
_RATE = 25


class _Lane:
    """A system, its worker and its publisher."""

    def __init__(self, system: System, stack: ExitStack, seconds: float) -> None:
        self._broker = stack.enter_context(system.fresh())
        self._connection = stack.enter_context(closing(connect(self._broker.url)))  # type: ignore[attr-defined]
        self._count = SETTLING + int(_RATE * seconds)
        self._worker = stack.enter_context(worker_of(self._broker, system.concurrency, self._count * 2, ready=True))
        self._output = stack.enter_context((self._worker.folder / "published").open("w+"))
        self._publisher = spawn(
            self._broker.publisher("steady", 1, _RATE, seconds),
            self._broker.variables,
            stdout=self._output,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(self._publisher.kill)
        self._readings: list[dict[str, Any]] = []

    def read(self, at_s: float) -> None:
        """Note the sizes of now."""
        self._readings.append(
            {
                "at_s": round(at_s, 1),
                "at_ns": time.monotonic_ns(),
                "done": self._worker.journal.refresh(),
                **memory(self._worker.pid),
                **sizes(self._connection, self._broker.tables()),
            }
        )

    def end(self) -> dict[str, Any]:
        """Wait for the last task; return the readings, each with the latency of the tasks since the one before."""
        self._publisher.wait(60)
        self._worker.run_until(self._count, 30)
        self._output.seek(0)
        called = json.loads(self._output.read().strip().splitlines()[-1])
        started = {number: start for number, start, _ in self._worker.journal.records}
        previous = 0
        for reading in self._readings:
            at = reading.pop("at_ns")
            waits = [
                (started[number] - begin) / 1e6
                for number, begin, _ in called
                if number in started and previous < begin <= at
            ]
            previous = at
            found = summary(waits)
            reading["p50"], reading["p99"] = found["p50"], found["p99"]
        return {
            "over_time": self._readings,
            "sent": len(called),
            "missing": len([number for number, *_ in called if number not in started]),
        }


def measure(run: Run, variant: str) -> dict[str, Any]:
    """For each system a list over time: tables, memory of the worker, latency of the tasks started meanwhile.

    All systems run together: a disturbance slows all of them.
    """
    seconds, step = run.pick(20, 1_800), run.pick(5, 60)
    with ExitStack() as stack:
        lanes = {name: _Lane(run.systems[name], stack, seconds) for name in run.present(*OVER_TIME)}
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            time.sleep(min(step, seconds - now))
            for lane in lanes.values():
                lane.read(time.monotonic() - begin)
        return {name: lane.end() for name, lane in lanes.items()}


CELL = Cell(
    "soak",
    lambda run: ["together"] if run.present(*OVER_TIME) else [],
    measure,
    per_system=False,
    repetitions=1,
    deadline_s=2_400,
)
