"""Database connections for looking and not for working: they give up soon."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2

from app.core.settings import Settings

TIMEOUT_S = 2


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


def _cut(descriptor: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
