"""Database connections for monitoring: read-only, and given up after `TIMEOUT_S`."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg2

from app.core.settings import Settings
from celery_postgres import operations

TIMEOUT_S = 2


def connect(settings: Settings) -> Any:
    """A read-only psycopg2 connection as the application's role, outside of every pool.

    Connecting, a lost peer and a dead host are given up after `TIMEOUT_S`; limit statements with `limited`.

    Raises:
        psycopg2.OperationalError: the database cannot be reached.
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
    """A cursor in a transaction that ends soon after `TIMEOUT_S`, with an error if it is not done.

    The server cancels a statement that takes longer. If it cannot even do that (stopped, swapped out, behind a silent
    proxy), the connection is cut here.
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
def reading(settings: Settings) -> Iterator[operations.MonitorStore]:
    """Figures of the broker, read in one transaction that can write nothing.

    It has the rights of `celery_monitor` and no others, where this role is a member of that one.

    Raises:
        psycopg2.Error: there is no connection, or no answer within about `TIMEOUT_S`.
    """
    with closing(connect(settings)) as connection, limited(connection):
        yield operations.monitor(connection)


def _cut(descriptor: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
