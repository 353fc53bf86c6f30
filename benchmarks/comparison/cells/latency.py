"""From the call that publishes a task to its start: on an idle worker, and under half of what the system can do."""

from __future__ import annotations

from typing import Any

from benchmarks.comparison.field import Field, summary, worker_of
from benchmarks.programs.publishing import SETTLING
from benchmarks.systems import publish

NAME = "latency"
#: Tasks a second, the same for all.
STEADY = "100"
REPETITIONS = 1
QUICK_REPETITIONS = 1


def variants(field: Field) -> list[str]:
    """System, load."""
    loads = ("idle",) if field.quick else ("idle", STEADY, "half")
    return [f"{name} {load}" for load in loads for name in field.peers()]


def run(field: Field, variant: str) -> dict[str, Any]:
    """Milliseconds: from the call on an idle worker, else from the moment when the call was due, however late it was.
    Half: of what one producer publishes or one worker drains in this run, whichever is less."""
    name, load = variant.split()
    system = field.systems[name]
    rate = None
    with system.fresh() as ground:
        if load == "idle":
            count = int(field.pick(25, 200))
            arguments: list[object] = ["paced", 1, count, 0.02, field.pick(0.15, 0.3)]
        else:
            rate = float(STEADY) if load == STEADY else _half(field, name)
            seconds = field.pick(3, 10)
            count = int(rate * seconds)
            arguments = ["steady", 1, rate, seconds]
        with worker_of(ground, system.concurrency, count + 1_000, ready=True) as worker:
            called = publish(ground, *arguments)
            worker.run_until(SETTLING + count, 20)
            started = {number: start for number, start, _ in worker.journal.records}
    waits = [(started[number] - begin) / 1e6 for number, begin, _ in called if number in started]
    return {
        **summary(waits),
        "missing": count - len(waits),
        "load": rate,
        "call_p50": summary([(end - begin) / 1e6 for _, begin, end in called])["p50"],
    }


def _half(field: Field, name: str) -> float:
    published = field.known("enqueue", f"{name} one_by_one", "rate", 200)
    drained = field.known("drain", f"{name} 0ms plain", "rate", 200)
    return min(published, drained) / 2
