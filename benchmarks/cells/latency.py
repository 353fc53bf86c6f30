"""From the call that publishes a task to its start: on an idle worker, and under half of what the system can do."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import Cell, number
from benchmarks.figures import summary
from benchmarks.programs.publishing import SETTLING
from benchmarks.run import Run, worker_of
from benchmarks.systems import System

#: Tasks a second, the same for all.
STEADY = "100"
_LOADS = ("idle", STEADY, "half")


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Milliseconds: from the call on an idle worker, else from the time when the call was due, however late it was.
    ``half``: of what one producer publishes or one worker drains in this run, whichever is less."""
    rate = None
    with system.fresh() as broker:
        if how == "idle":
            count = int(run.pick(25, 60))
            arguments: list[object] = ["paced", 1, count, 0.02, 0.15]
        else:
            rate = float(STEADY) if how == STEADY else _half(run, system.name)
            seconds = run.pick(3, 5)
            count = int(rate * seconds)
            arguments = ["steady", 1, rate, seconds]
        with worker_of(broker, system.concurrency, count + 1_000, ready=True) as worker:
            called = broker.publish(*arguments)
            worker.run_until(SETTLING + count, 20)
            started = {number: start for number, start, _ in worker.journal.records}
    waits = [(started[number] - begin) / 1e6 for number, begin, _ in called if number in started]
    return {
        **summary(waits),
        "missing": count - len(waits),
        "load": rate,
        "call_p50": summary([(end - begin) / 1e6 for _, begin, end in called])["p50"],
    }


def _half(run: Run, name: str) -> float:
    published = run.known("enqueue", f"{name} one_by_one", "rate", 200)
    drained = run.known("drain", f"{name} 0ms plain", "rate", 200)
    return min(published, drained) / 2


CELL = Cell(
    "latency",
    lambda run: [
        f"{name} {load}" for load in (("idle",) if run.quick else ("idle", STEADY, "half")) for name in run.peers()
    ],
    measure,
    page=lambda run: [f"{name} {load}" for load in ("idle", "half") for name in run.peers()],
    tables={
        "latency": [
            ("idle: p50 / p99 ms", number("idle", "p50", "p99")),
            ("half load: p50 / p99 ms", number("half", "p50", "p99")),
            ("that load, tasks/s", number("half", "load")),
            ("its publish, p50 ms", number("half", "call_p50")),
        ]
    },
)
