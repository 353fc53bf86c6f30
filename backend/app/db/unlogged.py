"""Values that no server log shows.

The driver writes parameters into the statement, so `log_statement`, `log_min_duration_statement`, a failed statement,
`pg_stat_activity` and a crash report show them. A large object is written with a call of the protocol's own; the server
logs only the name of that function (docs/decisions/0017).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

_MAKE = text("SELECT lo_create(0)")
_REMOVE = text("SELECT lo_unlink(:oid)")


@contextmanager
def unlogged(connection: Connection, value: bytes) -> Iterator[int]:
    """Let statements of this transaction read `value` as `lo_get(oid)` within the block; no other session ever can.

    Do not use it for keys: what a transaction writes is in the write-ahead log too, and in each copy of that.
    """
    oid: int = connection.execute(_MAKE).scalar_one()
    driver: Any = connection.connection.driver_connection
    try:
        with closing(driver.lobject(oid, "wb")) as large:
            large.write(value)
    except psycopg2.Error as error:
        raise DBAPIError.instance(
            None, None, error, psycopg2.Error, connection_invalidated=bool(driver.closed), dialect=connection.dialect
        ) from error
    yield oid
    connection.execute(_REMOVE, {"oid": oid})
