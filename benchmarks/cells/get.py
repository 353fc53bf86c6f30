"""How long a program waits for results: ``get()`` of one task, and of a group of a thousand."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.cells import Cell, number, spread
from benchmarks.figures import percentile
from benchmarks.run import Run, worker_of
from benchmarks.systems import System
from benchmarks.systems.celery_systems import PROGRAM
from environment.testkit.children import call

_PARTS = 1000
_POOLS = ("solo", "threads", "prefork")


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Milliseconds; ``one``: of ``apply_async().get()`` on an idle worker, with pauses from 10 to 60 ms between.

    A pool's name: the same without pauses, with a worker of this pool.
    """
    pool = how if how in _POOLS else None
    tasks = 2 if how in ("threads", "prefork") else 1
    with system.fresh(results=True) as broker, worker_of(broker, tasks, 100_000, ready=True, late=True, pool=pool):
        if pool:
            took = call(PROGRAM, "gets", int(run.pick(100, 400)), 0.0, 0.0, variables=broker.variables)
            return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "worst": max(took)}
        if how == "one":
            count = run.pick(3, 12) if system.name == "stock" else run.pick(50, 150)
            took = call(PROGRAM, "gets", int(count), 0.01, 0.06, variables=broker.variables)
            return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "worst": max(took)}
        took = call(PROGRAM, "groups", int(run.pick(3, 8)), _PARTS, variables=broker.variables)
        gets, wholes = zip(*took, strict=True)
        return {"get": median(gets), "whole": median(wholes)}


def variants(run: Run) -> list[str]:
    """The page's, and prefork's."""
    return [*page(run), *(f"{name} prefork" for name in run.present("ours", "redis"))]


def page(run: Run) -> list[str]:
    """Groups, and one after the other, only where ``get()`` does not poll."""
    return [
        *(f"{name} one" for name in run.present("ours", "redis", "stock")),
        *(f"{name} {how}" for how in ("group", "solo", "threads") for name in run.present("ours", "redis")),
    ]


CELL = Cell(
    "get",
    variants,
    measure,
    page=page,
    tables={
        "get": [
            ("get() of a task, p50 ms", spread("one", "p50")),
            ("p99", spread("one", "p99")),
            ("back to back, solo, p50 ms", spread("solo", "p50")),
            ("… threads", spread("threads", "p50")),
            (f"get() of a group of {_PARTS:,}, ms", spread("group", "get")),
            ("with its publishing, ms", spread("group", "whole")),
        ]
    },
    printed={
        "get() back to back, ms": [(f"{pool}, p50 · p99", number(pool, "p50", "p99", mark=" · ")) for pool in _POOLS]
    },
)
