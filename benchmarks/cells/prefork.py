"""Celery's prefork pool beside solo: without results, with results and early acks, with results and late acks."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import Cell, drain, number, spread
from benchmarks.run import Run
from benchmarks.systems import System

#: By the words of `drain`.
_KEPT = {"plain": "no results", "results": "early acks", "late-results": "late acks"}
_POOLS = {"": "solo", " prefork": "2 children", " prefork-8": "8 children"}


def variants(run: Run) -> list[str]:
    """A pool, and what is kept; the systems next to each other, as rates are compared with their neighbors."""
    names = [name for name in run.that("prefork") if name in run.present("ours", "redis")]
    return [f"{name} 0ms {kept}{pool}" for kept in _KEPT for pool in _POOLS for name in names]


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """What `drain` measures, in variants that it has not."""
    return drain.measure(run, system, how)


_FIGURES = (("children µs", "children_us"), ("worker µs", "worker_us"), ("server µs", "server_us"))
CELL = Cell(
    "prefork",
    variants,
    measure,
    repetitions=3,
    printed={
        f"prefork, {label}": [
            *((f"{pool}/s", spread(f"0ms {kept}{words}", "rate")) for words, pool in _POOLS.items()),
            *(
                (f"{pool}, {name}", number(f"0ms {kept}{words}", key))
                for words, pool in _POOLS.items()
                for name, key in _FIGURES
            ),
        ]
        for kept, label in _KEPT.items()
    },
)
