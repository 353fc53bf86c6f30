"""The questions, one module each.

A cell has ``NAME``, ``REPETITIONS`` and ``QUICK_REPETITIONS``; ``variants(field)``, what to compare, each beginning
with the name of a system; and ``run(field, variant)``, one sample as JSON.
"""

from types import ModuleType

from benchmarks.comparison.cells import (
    backlog,
    ceiling,
    chord,
    drain,
    enqueue,
    idle,
    imports,
    latency,
    memory,
    payload,
    pinned,
    soak,
    workers,
)

#: In the order in which they run: latency asks what drain and enqueue have measured.
CELLS: list[ModuleType] = [
    enqueue, drain, ceiling, latency, chord, workers, payload, idle, memory, imports, backlog, pinned, soak,
]  # fmt: skip

#: What a quick run asks.
QUICK: list[ModuleType] = [enqueue, drain, latency, chord]
