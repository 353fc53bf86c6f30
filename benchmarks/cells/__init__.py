"""The questions, one module each.

A cell has ``NAME``, ``REPETITIONS`` and ``QUICK_REPETITIONS``; ``variants(bench)``, what to compare; ``run(bench,
variant)``, one sample as JSON; and ``rows(results)``, its lines of the table.
"""

from types import ModuleType

from benchmarks.cells import (
    backlog,
    chord,
    connections,
    crash,
    drain,
    drain_results,
    get,
    get_group,
    idle,
    latency,
    memory,
    pinned,
    publish,
    several,
    waiters,
)

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

#: The cells of the result backend.
RESULTS: list[ModuleType] = [drain_results, get, chord, get_group, waiters]

SUITES: dict[str, list[ModuleType]] = {"broker": BROKER, "results": RESULTS}
