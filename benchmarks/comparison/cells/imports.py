"""How long a program waits for ``import celery_postgres`` and ``install()``."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.comparison.field import Field
from benchmarks.processes import call

NAME = "imports"
REPETITIONS = 3
QUICK_REPETITIONS = 1

_TIMES = 7


def variants(field: Field) -> list[str]:
    """Ours: the others are imported with Celery."""
    return field.present(("ours",))


def run(field: Field, variant: str) -> dict[str, Any]:
    """Milliseconds of processor time in a fresh interpreter: everything, and our part where Celery, Kombu and the
    driver are there already; medians of several."""
    with field.systems[variant].fresh() as ground:
        found = [call("benchmarks.programs.importing", variables=ground.variables) for _ in range(_TIMES)]
    return {key: median(one[key] for one in found) for key in ("import_ms", "own_ms", "modules")}
