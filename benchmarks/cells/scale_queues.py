"""How many queues one server bears, and one worker; and how many tenants' messages one queue."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import Cell
from benchmarks.cells.scale_parts import (
    PROGRAM,
    look,
    one_worker,
    ours,
    spread_over_queues,
    sql,
    together,
    working,
)
from benchmarks.figures import summary
from benchmarks.programs.publishing import SETTLING
from benchmarks.run import Run
from environment.testkit.children import call

IN_DATABASE = (1, 10, 100, 1_000)
IN_WORKER = (1, 10, 100, 300)
TENANTS = (1, 10, 100, 1_000, 10_000)
#: Messages in the queues that the worker does not consume.
_ELSEWHERE = 10_000
_FILLED = 30_000


def variants(run: Run) -> list[str]:
    """Queues in the database, of which a worker consumes one; queues that one worker consumes."""
    counts = {"database": IN_DATABASE, "worker": IN_WORKER}
    ends = {where: (found[0], found[-1]) for where, found in counts.items()}
    return [f"{where} {count}" for where, found in (ends if run.quick else counts).items() for count in found]


def measure(run: Run, variant: str) -> dict[str, Any]:
    """Tasks a second and their processor time; of many queues in the database also publishes, overview and scrape; of
    many in a worker the time from a publish to any of them to the start."""
    where, number = variant.split()
    count, system = int(number), ours(run)
    with system.fresh() as broker:
        call(PROGRAM, "declare", count, variables=broker.variables)
        if where == "worker":
            names = ",".join(f"q{position}" for position in range(count))
            with one_worker(broker, "-Q", names) as worker:
                called = call(
                    PROGRAM, "paced_over", count, int(run.pick(15, 60)), 0.02, 0.1, variables=broker.variables
                )
                worker.run_until(SETTLING + len(called), 20)
                started = {task: start for task, start, _ in worker.journal.records}
                waits = summary([(started[task] - begin) / 1e6 for task, begin, _ in called if task in started])
            broker.fill(1_000, _FILLED)
            spread_over_queues(broker, "q", count)
            with one_worker(broker, "-Q", names) as worker:
                found = working(run, broker, worker, run.pick(2, 4))
            return {**found, "p50": waits["p50"], "p99": waits["p99"]}
        broker.fill(1, _ELSEWHERE)
        spread_over_queues(broker, "q", count)
        published = together(broker, 1, run.pick(1.5, 3))
        looked = look(broker)
        broker.fill(1, _FILLED)
        with one_worker(broker) as worker:
            return {**working(run, broker, worker, run.pick(2, 4)), "publishes": published["rate"], **looked}


def measure_tenants(run: Run, variant: str) -> dict[str, Any]:
    """Tasks a second of a queue whose messages belong to so many tenants; the same looks."""
    system = ours(run)
    with system.fresh() as broker:
        broker.fill(1, _FILLED)
        sql(broker, "UPDATE kombu_message SET tenant_id = md5((id %% %s)::text)::uuid", int(variant))
        sql(broker, "VACUUM ANALYZE kombu_message")
        looked = look(broker)
        with one_worker(broker) as worker:
            return {**working(run, broker, worker, run.pick(2, 4)), **looked}


QUEUES = Cell("queues", variants, measure, per_system=False, repetitions=1)
TENANTS_CELL = Cell(
    "tenants",
    lambda run: [str(count) for count in (TENANTS[-1:] if run.quick else TENANTS)],
    measure_tenants,
    per_system=False,
    repetitions=1,
)
