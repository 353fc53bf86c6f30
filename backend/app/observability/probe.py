"""Database connections for looking and not for working: they give up soon."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2

from app.core.settings import Settings
from celery_postgres.database.lexer import is_single
from celery_postgres.database.statements import load, statements

TIMEOUT_S = 2
#: What may be read so: this application's own, and two of the broker's.
STATEMENTS = load(Path(__file__).parent / "monitoring.sql") | {
    name: statements()[name] for name in ("consumers_overview",)
}
#: Where ops/postgres/roles.sql has been run, with the rights of its monitor and no others. And with the indexes, as the
#: planner takes them anyway while statistics are fresh: else it may read all delivered messages before it finds the
#: first waiting one; a bitmap has all of a backlog before a limit cuts it.
_BEGIN = """
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), (
        SELECT set_config('role', monitor.rolname, true)
        FROM pg_roles AS monitor
        WHERE monitor.rolname = 'celery_monitor' AND pg_has_role(monitor.oid, 'MEMBER')
          AND has_table_privilege(monitor.oid, to_regclass('public.kombu_queue'), 'SELECT')
    )
"""


def connect(settings: Settings) -> Any:
    """A read-only psycopg2 connection as the application's role, apart from every pool.

    Connecting, a lost peer and a dead host are given up after `TIMEOUT_S`; bound statements with `limited`.

    Raises:
        psycopg2.OperationalError: there is no connection to be had.
    """
    connection = psycopg2.connect(
        settings.dsn.libpq(),
        connect_timeout=TIMEOUT_S,
        tcp_user_timeout=TIMEOUT_S * 1000,
        keepalives_idle=TIMEOUT_S,
        keepalives_interval=1,
        keepalives_count=TIMEOUT_S,
        fallback_application_name=f"{settings.service_name} monitoring",
    )
    connection.set_session(readonly=True)
    return connection


@contextmanager
def limited(connection: Any) -> Iterator[Any]:
    """A cursor in a transaction that ends, with an error if need be, soon after `TIMEOUT_S`.

    The server cancels what takes longer. A server that does not even do that (stopped, swapped out, behind a
    silent proxy) has its connection cut here.
    """
    own = os.dup(connection.fileno())
    timer = threading.Timer(TIMEOUT_S + 0.5, _cut, [own])
    timer.daemon = True
    timer.start()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", (str(TIMEOUT_S * 1000),))
            yield cursor
    finally:
        timer.cancel()
        timer.join()
        os.close(own)
        with suppress(psycopg2.Error):
            connection.rollback()


@contextmanager
def reading(settings: Settings) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """A function `read(name, **parameters)` that gives the rows of one of `STATEMENTS`. What is read within the block
    is read in one transaction that can write nothing, under the rights of `celery_monitor` where this role has them.

    Raises:
        psycopg2.Error: there is no connection, or no answer within about `TIMEOUT_S`.
    """
    with closing(connect(settings)) as connection, limited(connection) as cursor:
        cursor.execute(_BEGIN)

        def read(name: str, **parameters: Any) -> list[tuple[Any, ...]]:
            statement = cursor.mogrify(STATEMENTS[name].direct, parameters).decode()
            # Names of queues come from whoever declares them. Whatever went wrong with quoting one of them, what is
            # sent is one statement: it cannot end the transaction and begin another, which could write.
            if not is_single(statement):
                raise psycopg2.ProgrammingError(f"{name} was not sent: with these values it is not one statement")
            cursor.execute(statement)
            return list(cursor.fetchall())

        yield read


def _cut(descriptor: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
