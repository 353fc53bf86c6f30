"""Half an hour at one pace, all systems side by side: do tables, memory and latency stay as they were?"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.comparison.field import OVER_TIME, Field, connect, summary, worker_of
from benchmarks.machine import memory
from benchmarks.processes import spawn
from benchmarks.programs.publishing import SETTLING
from benchmarks.relations import sizes
from benchmarks.systems import Ground, System
from benchmarks.worker import Worker

NAME = "soak"
REPETITIONS = 1
QUICK_REPETITIONS = 1

#: Tasks a second of each system: all four together leave half of two slow processors idle.
_RATE = 25


def variants(field: Field) -> list[str]:
    """One: they share the time, and what disturbs one disturbs all."""
    return ["together"] if field.present(OVER_TIME) else []


def run(field: Field, variant: str) -> dict[str, Any]:
    """For each system a list over time: tables, memory of the worker, latency of the tasks started meanwhile."""
    seconds, step = field.pick(20, 1_800), field.pick(5, 60)
    with ExitStack() as stack:
        lanes = [_Lane(field, stack, name, seconds) for name in field.present(OVER_TIME)]
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            time.sleep(min(step, seconds - now))
            for lane in lanes:
                lane.look(time.monotonic() - begin)
        return {lane.name: lane.end() for lane in lanes}


class _Lane:
    """A system, its worker and its publisher."""

    def __init__(self, field: Field, stack: ExitStack, name: str, seconds: float) -> None:
        self.name = name
        system: System = field.systems[name]
        self._ground: Ground = stack.enter_context(system.fresh())
        self._connection = stack.enter_context(closing(connect(self._ground)))
        self._count = SETTLING + int(_RATE * seconds)
        self._worker: Worker = stack.enter_context(
            worker_of(self._ground, system.concurrency, self._count * 2, ready=True)
        )
        self._output = stack.enter_context((self._worker.folder / "published").open("w+"))
        self._publisher = spawn(
            self._ground.publisher("steady", 1, _RATE, seconds),
            self._ground.variables,
            stdout=self._output,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(self._publisher.kill)
        self._looks: list[dict[str, Any]] = []

    def look(self, at_s: float) -> None:
        self._looks.append(
            {
                "at_s": round(at_s, 1),
                "at_ns": time.monotonic_ns(),
                "done": self._worker.journal.refresh(),
                **memory(self._worker.pid),
                **sizes(self._connection, self._ground.tables()),
            }
        )

    def end(self) -> dict[str, Any]:
        self._publisher.wait(60)
        self._worker.run_until(self._count, 30)
        self._output.seek(0)
        called = json.loads(self._output.read().strip().splitlines()[-1])
        started = {number: start for number, start, _ in self._worker.journal.records}
        previous = 0
        for look in self._looks:
            at = look.pop("at_ns")
            waits = [
                (started[number] - begin) / 1e6
                for number, begin, _ in called
                if number in started and previous < begin <= at
            ]
            previous = at
            found = summary(waits)
            look["p50"], look["p99"] = found["p50"], found["p99"]
        return {
            "over_time": self._looks,
            "sent": len(called),
            "missing": len([number for number, *_ in called if number not in started]),
        }
