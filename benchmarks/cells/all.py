"""All cells, in the order in which they run: latency and workers use what drain and enqueue have measured."""

from __future__ import annotations

from benchmarks.cells import (
    Cell,
    backlog,
    ceiling,
    chord,
    connections,
    crash,
    drain,
    enqueue,
    fleet,
    front,
    get,
    idle,
    imports,
    latency,
    memory,
    payload,
    pinned,
    soak,
    statements,
    workers,
)

#: What a full run asks: the page.
PAGE = [
    module.CELL for module in (enqueue, drain, ceiling, latency, chord, workers, payload, idle, backlog, pinned, soak)
]

#: What a quick run asks.
QUICK = [enqueue.CELL, drain.CELL, latency.CELL, chord.CELL]

#: What is asked only by ``--only``: the figures of docs/benchmarks/broker-and-results.md and front.md that the page has
#: not, and those of ``--against``.
MORE = [module.CELL for module in (get, fleet, crash, connections, statements, memory, imports, front)]

CELLS: dict[str, Cell] = {cell.name: cell for cell in [*PAGE, *MORE]}
