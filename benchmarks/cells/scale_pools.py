"""What one worker of each pool takes: memory of its processes, connections, and memory of the server for each."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import Cell
from benchmarks.cells.scale_parts import ours, sessions
from benchmarks.run import Run, worker_of
from environment.testkit import measuring
from environment.waiting import wait_until

#: Pool → tasks at a time.
POOLS = {"solo": 1, "threads": 8, "prefork": 4}
_TASKS = 5_000


def measure(run: Run, variant: str) -> dict[str, Any]:
    """Private and resident memory of the main process and of a child, in MB; connections when it is ready, and after
    5,000 tasks with results and late acknowledgement."""
    system = ours(run)
    with (
        system.fresh(results=True) as broker,
        worker_of(broker, POOLS[variant], 20_000, ready=True, late=True, pool=variant) as worker,
    ):
        before = sessions(run, broker)
        broker.fill(1, _TASKS)
        worker.run_until(_TASKS, 60)
        wait_until(lambda: broker.waiting() == 0, 20, "the acknowledgements")
        after = sessions(run, broker)
        children = measuring.tree([worker.pid]) - {worker.pid}
        found = {"main_" + key: value for key, value in measuring.memory(worker.pid).items()}
        if children:
            some = [measuring.memory(pid) for pid in children]
            found |= {"child_" + key: max(one[key] for one in some) for key in some[0]}
    return {
        **found,
        "children": len(children),
        "idle_connections": before["connections"],
        "idle_connection_mb": before["connection_mb"],
        "connections": after["connections"],
        "connection_mb": after["connection_mb"],
    }


CELL = Cell("pools", lambda run: list(POOLS), measure, per_system=False, repetitions=1)
