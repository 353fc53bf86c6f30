"""All cells, in the order in which they run: latency and workers use what drain and enqueue have measured."""

from __future__ import annotations

from benchmarks.cells import (
    Cell,
    backlog,
    ceiling,
    chord,
    connections,
    crash,
    deep,
    drain,
    enqueue,
    fair,
    fleet,
    front,
    get,
    idle,
    imports,
    latency,
    memory,
    payload,
    pinned,
    prefork,
    processes,
    publishers,
    soak,
    statements,
    views,
    workers,
)

#: What a full run asks: the page.
PAGE = [
    module.CELL
    for module in (enqueue, drain, processes, latency, get, chord, payload, backlog, idle, fleet, pinned, ceiling)
]

#: What a quick run asks.
QUICK = [enqueue.CELL, drain.CELL, processes.CELL, latency.CELL, chord.CELL]

#: What is asked only by ``--only``: half an hour, figures of docs/benchmarks/front.md, and those of ``--against``.
MORE = [
    module.CELL
    for module in (
        deep,
        fair,
        soak,
        workers,
        prefork,
        publishers,
        crash,
        connections,
        statements,
        memory,
        imports,
        front,
        views,
    )
]

CELLS: dict[str, Cell] = {cell.name: cell for cell in [*PAGE, *MORE]}
