"""What the tables of a system in PostgreSQL have become."""

from __future__ import annotations

from typing import Any

import psycopg2

from benchmarks.systems import Ground

#: The systems in PostgreSQL that are watched over minutes.
OVER_TIME = ("ours", "stock", "pgqueuer", "procrastinate")


def connect(ground: Ground) -> Any:
    """A connection to a ground's database, in autocommit."""
    connection = psycopg2.connect(ground.libpq, application_name="benchmarks")  # type: ignore[attr-defined]
    connection.autocommit = True
    return connection


def sizes(connection: Any, ground: Ground) -> dict[str, Any]:
    """Dead rows, bytes of tables and of indexes, over all tables that hold tasks."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT sum(n_dead_tup)::bigint, sum(pg_table_size(relid))::bigint, sum(pg_indexes_size(relid))::bigint, "
            "sum(n_live_tup)::bigint FROM pg_stat_user_tables WHERE relname = ANY(%s)",
            [ground.tables()],  # type: ignore[attr-defined]
        )
        dead, table, indexes, live = cursor.fetchone()
    return {"dead_tuples": dead, "live_tuples": live, "table_bytes": table, "index_bytes": indexes}
