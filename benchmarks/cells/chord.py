"""A chord of a hundred, on the Celery systems whose results can hold one."""

from __future__ import annotations

import subprocess
from statistics import median
from typing import Any

from benchmarks.cells import Cell, spread
from benchmarks.run import Run, worker_of
from benchmarks.systems import System
from environment.testkit.children import answer, spawn

_PARTS = 100


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Milliseconds from the end of the last part to the start of the body, and of the whole with ``get()``."""
    count = int(run.pick(1, 1) if system.name in ("stock", "rabbitmq-db") else run.pick(4, 10))
    with system.fresh(results=True) as broker, worker_of(broker, 1, count * _PARTS * 2, ready=True):
        command = [*broker.program, "chords", str(count), str(_PARTS)]
        took = answer(spawn(command, broker.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    gaps, wholes = zip(*took, strict=True)
    return {"gap": median(gaps), "worst_gap": max(gaps), "whole": median(wholes), "chords": count}


CELL = Cell(
    "chord",
    lambda run: [f"{name} solo" for name in run.that("chords")],
    measure,
    tables={
        "chord": [
            ("last part to body, ms", spread("solo", "gap")),
            ("the longest", spread("solo", "worst_gap")),
            ("the whole, ms", spread("solo", "whole")),
        ]
    },
)
