"""Both ends of a connection notice a network that is gone; the fault suite cuts one."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from typing import Any

import pytest

from app.core.settings import Settings
from app.db.engine import build_engine
from celery_postgres.database import keepalive
from celery_postgres.database.session import Session


def patience(descriptor: int) -> tuple[int, int]:
    """What the kernel was told: ms for what was sent, s until it asks a silent peer."""
    with socket.socket(fileno=os.dup(descriptor)) as one:
        return (
            one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        )


@pytest.fixture
def tcp_url(module_database: Any) -> str:
    if module_database.tcp_url is None:
        pytest.skip("the server of DATABASE_URL is not ours: it may listen on a socket only")
    return str(module_database.tcp_url)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
@pytest.mark.parametrize(
    ("query", "expected"),
    [("", (10_000, 5)), ("?tcp_user_timeout=7000", (7000, 5)), ("?keepalives_idle=60", (10_000, 60))],
)
def test_a_session_is_patient_for_as_long_as_its_address_says(
    tcp_url: str, query: str, expected: tuple[int, int]
) -> None:
    with closing(Session(tcp_url + query)) as session:
        assert patience(session.fileno()) == expected


def test_the_server_gives_up_a_vanished_client(tcp_url: str) -> None:
    with closing(Session(tcp_url)) as session:
        session.script("SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp%'")
        assert dict(session._cursor.fetchall()) == keepalive.SETTINGS


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
def test_the_engine_of_tasks_has_the_same_patience(tcp_url: str) -> None:
    """A task that waits on a dead link would otherwise hold its worker for hours."""
    engine = build_engine(Settings(database_url=tcp_url, _env_file=None))
    with engine.connect() as connection:
        assert patience(connection.connection.fileno()) == (10_000, 5)  # type: ignore[attr-defined]
    engine.dispose()
