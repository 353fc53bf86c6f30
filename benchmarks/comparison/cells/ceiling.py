"""What PostgreSQL itself allows: pgbench inserting and taking the rows of our table."""

from __future__ import annotations

from typing import Any

from benchmarks import pgbench
from benchmarks.comparison.field import Field
from benchmarks.systems.databases import DatabaseSystem

NAME = "ceiling"
REPETITIONS = 3
QUICK_REPETITIONS = 1

CLIENTS = (1, 4)
#: The database of whose server it is measured.
_SERVER = "psycopg2-one"


def variants(field: Field) -> list[str]:
    """Connections at a time."""
    system = field.systems.get(_SERVER)
    if not isinstance(system, DatabaseSystem) or pgbench.program(system.cluster) is None:
        return []
    return [f"pgbench {clients}" for clients in CLIENTS]


def run(field: Field, variant: str) -> dict[str, Any]:
    """Durable transactions a second, each of one row: that insert, and that take."""
    system = field.systems[_SERVER]
    assert isinstance(system, DatabaseSystem)
    _, clients = variant.split()
    return {**pgbench.pgbench(system.cluster, int(field.pick(2, 5)), int(clients))}
