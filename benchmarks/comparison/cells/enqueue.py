"""How fast one producer publishes, one by one and in bulk."""

from __future__ import annotations

from typing import Any

from benchmarks.comparison.field import Field, operations_each
from benchmarks.systems import publish

NAME = "enqueue"
REPETITIONS = 3
QUICK_REPETITIONS = 1

_COUNT = {"one_by_one": 20_000, "in_bulk": 100_000}


def variants(field: Field) -> list[str]:
    """System, mode."""
    names = [*field.peers(), *field.present(["rabbitmq-confirm", "psycopg2-one"])]
    return [f"{name} {mode}" for mode in _COUNT for name in names]


def run(field: Field, variant: str) -> dict[str, Any]:
    """Tasks published in a second; processor time and transactions of each."""
    name, mode = variant.split()
    system = field.systems[name]
    count, limit_s = _COUNT[mode], field.pick(1.5, 3)
    with system.fresh() as ground:
        meter, before = field.meter(system), ground.operations()
        arguments = [1, count, limit_s, 0, *([0.0] if mode == "in_bulk" else [])]
        done = publish(ground, mode, *arguments)
        spent, after = meter.stop(), ground.operations()
    if done is None:
        return {"rate": None}
    # The tasks that warm up are in the server's seconds and operations.
    whole = done["published"] + 200
    return {
        **done,
        "client_us": done["cpu_s"] / done["published"] * 1e6,
        "server_us": spent["server"] / whole * 1e6,
        "operations": operations_each(before, after, whole),
    }
