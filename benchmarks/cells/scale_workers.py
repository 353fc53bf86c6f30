"""How many workers one server bears: 1 to 100 of them with nothing to do, woken by one task, and all at work."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.cells import Cell
from benchmarks.cells.scale_parts import fleet, ours, sessions, working
from benchmarks.figures import summary
from benchmarks.programs.publishing import SETTLING
from benchmarks.run import Run
from benchmarks.systems.clusters import without_autovacuum

COUNTS = (1, 4, 10, 40, 100)
#: Tasks that wait when all are at work: more than they do meanwhile, and than all of them prefetch.
_FILLED = 60_000


def measure(run: Run, variant: str) -> dict[str, Any]:
    """Idle: operations and processor seconds a second.  One task at a time: milliseconds to its start.  At work, with
    results and late acknowledgement: tasks a second, and processor time for each."""
    count, system = int(variant), ours(run)
    with (
        system.fresh(results=True) as broker,
        without_autovacuum(system.cluster),
        fleet(broker, count, late=True) as all,
    ):
        # An idle server process reports its transactions after 10 s, so those of the start come late; and a hundred
        # workers that start at once have greeted each other after 35 s.
        time.sleep(run.pick(5, 12 + 0.4 * count))
        idle_s = run.pick(5, 20)
        meter, before = run.meter(system, all), broker.operations()
        time.sleep(idle_s)
        spent, operations = meter.stop(), broker.operations() - before
        found = {
            "idle_operations": operations / idle_s,
            "idle_server_cores": spent["server"] / idle_s,
            "idle_worker_cores": spent["worker"] / idle_s,
            **sessions(run, broker),
        }
        called = broker.publish("paced", 1, int(run.pick(15, 60)), 0.02, 0.1)
        all.run_until(SETTLING + len(called), 20)
        started = {number: start for number, start, _ in all.journal.records}
        waits = summary([(started[number] - begin) / 1e6 for number, begin, _ in called if number in started])
        broker.fill(1_000, _FILLED)
        at_work = working(run, broker, all, run.pick(4, 8))
        after = sessions(run, broker)
    return {
        **found,
        "p50": waits["p50"],
        "p99": waits["p99"],
        **at_work,
        "busy_connections": after["connections"],
        "busy_connection_mb": after["connection_mb"],
    }


CELL = Cell(
    "workers",
    lambda run: [str(count) for count in ((1, 10) if run.quick else COUNTS)],
    measure,
    per_system=False,
    repetitions=1,
    deadline_s=600,
)
