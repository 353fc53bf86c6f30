"""Two processes that work on one queue: Celery's prefork pool with two children, elsewhere two workers."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import Cell, drain, number, spread, workers
from benchmarks.run import Run
from benchmarks.samples import Results
from benchmarks.systems import System

_KEPT = ("plain", "results", "late", "late-results")


def variants(run: Run) -> list[str]:
    """Prefork with and without results, acknowledged early and late, where a system has it; else ``two``."""
    pools, quick = run.that("prefork"), ("plain", "late-results")
    found = [f"{name} {kept}" for kept in (quick if run.quick else _KEPT) for name in pools]
    return found + [f"{name} two" for name in run.peers(once=True) if name not in pools]


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """What ``drain`` or ``workers`` measures."""
    if how == "two":
        return workers.measure(run, system, "2")
    return drain.measure(run, system, f"0ms {how} prefork")


def plain(results: Results, name: str) -> str:
    """The column of tasks without results, however the system runs two processes."""
    how = next((how for how in ("plain", "late", "two") if f"{name} {how}" in results), "two")
    return spread(how, "rate")(results, name)


CELL = Cell(
    "processes",
    variants,
    measure,
    tables={
        "processes": [
            ("no result/s", plain),
            ("with result/s", spread("results", "rate")),
            ("late ack/s", spread("late", "rate")),
            ("late ack, with result/s", spread("late-results", "rate")),
            ("… worker µs", number("late-results", "worker_us")),
            ("… server µs", number("late-results", "server_us")),
        ]
    },
)
