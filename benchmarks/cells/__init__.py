"""The questions, one module each.

A cell has ``NAME``, ``REPETITIONS`` and ``QUICK_REPETITIONS``; ``variants(bench)``, what to compare; ``run(bench,
variant)``, one sample as JSON; and ``rows(results)``, its lines of the table.
"""

from types import ModuleType

from benchmarks.cells import backlog, connections, crash, drain, idle, latency, memory, pinned, publish, several

#: The cells of the broker, in the order in which they run: the short ones first.
BROKER: list[ModuleType] = [
    drain,
    publish,
    latency,
    several,
    crash,
    idle,
    memory,
    connections,
    backlog,
    pinned,
]
