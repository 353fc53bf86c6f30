"""Values that no log of the server's shows.

The driver writes parameters into the statement, so `log_statement`, `log_min_duration_statement`, a failed statement,
`pg_stat_activity` and a crash report show them. What goes into a large object goes there by a call of the protocol's
own, of which the server logs the name of the function alone (docs/decisions/0017).
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
    """Within the block statements of this transaction read `value` as `lo_get(oid)`; nobody else ever can.

    Not for keys: what is in a transaction is in the write-ahead log as well, and in each copy of that.
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
