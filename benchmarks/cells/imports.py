"""How long a program waits for ``import celery_postgres`` and ``install()``."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.cells import Cell, spread
from benchmarks.run import Run
from benchmarks.systems import System
from environment.testkit.children import call

_TIMES = 7


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Milliseconds of processor time in a fresh interpreter: of everything, and of our part where Celery, Kombu and
    the driver are imported already; medians of several."""
    with system.fresh() as broker:
        found = [call("benchmarks.programs.importing", variables=broker.variables) for _ in range(_TIMES)]
    return {key: median(one[key] for one in found) for key in ("import_ms", "own_ms", "modules")}


CELL = Cell(
    "imports",
    lambda run: run.present("ours"),
    measure,
    repetitions=3,
    tables={
        "imports": [
            ("import, ms", spread("", "import_ms")),
            ("of it ours, ms", spread("", "own_ms")),
            ("modules", spread("", "modules")),
        ]
    },
)
