"""The tables that hold tasks: what has become of them, and what keeps them from being tidied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def pin(connection: Any) -> None:
    """Begin a transaction that holds back vacuum until the connection is closed."""
    connection.autocommit = False
    connection.set_session(isolation_level="REPEATABLE READ")
    with connection.cursor() as cursor:
        cursor.execute("SELECT txid_current()")


def sizes(connection: Any, tables: Sequence[str]) -> dict[str, Any]:
    """Dead and live rows, bytes of tables and of indexes, of all these together."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT sum(n_dead_tup)::bigint, sum(n_live_tup)::bigint, sum(pg_table_size(relid))::bigint, "
            "sum(pg_indexes_size(relid))::bigint FROM pg_stat_user_tables WHERE relname = ANY(%s)",
            [list(tables)],
        )
        return dict(zip(("dead_tuples", "live_tuples", "table_bytes", "index_bytes"), cursor.fetchone(), strict=True))
