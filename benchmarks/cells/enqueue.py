"""How fast one producer publishes, one by one and in bulk."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import Cell, number, spread
from benchmarks.programs.publishing import WARM_UP
from benchmarks.run import Run, operations_each
from benchmarks.systems import System

_COUNT = {"one_by_one": 20_000, "in_bulk": 100_000}


def variants(run: Run) -> list[str]:
    """Modes."""
    names = [*run.peers(), *run.present("rabbitmq-confirm", "psycopg2-one")]
    many = set(run.that("bulk"))
    return [
        *(f"{name} one_by_one" for name in names),
        *(f"{name} in_bulk" for name in names if name in many),
        # Celery's own part of a publish: there is no server behind it.
        *(f"{name} one_by_one" for name in run.present("memory")),
    ]


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Tasks published a second; processor time and transactions of each."""
    count, limit_s = _COUNT[how], run.pick(1.5, 2)
    with system.fresh() as broker:
        meter, before = run.meter(system), broker.operations()
        done = broker.publish(how, 1, count, limit_s, 0, *([0.0] if how == "in_bulk" else []))
        spent, after = meter.stop(), broker.operations()
    if done is None:
        return {"rate": None}
    # The server's seconds and operations include the warm-up.
    whole = done["published"] + WARM_UP
    return {
        **done,
        "client_us": done["cpu_s"] / done["published"] * 1e6,
        "server_us": spent["server"] / whole * 1e6,
        "operations": operations_each(before, after, whole),
    }


CELL = Cell(
    "enqueue",
    variants,
    measure,
    tables={
        "enqueue": [
            ("one by one/s", spread("one_by_one", "rate")),
            ("in bulk/s", spread("in_bulk", "rate")),
            ("publisher µs", number("one_by_one", "client_us")),
            ("server µs", number("one_by_one", "server_us")),
            ("server operations", number("one_by_one", "operations")),
        ]
    },
)
