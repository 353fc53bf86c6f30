"""A worker on each form of DATABASE_URL that this machine can serve: it starts, runs a task, stores the result."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
from psycopg2 import sql

from app.celery_app import celery_app, create_app
from app.core.dsn import PostgresDSN
from app.core.settings import Settings

AWKWARD = f"p@:/%?#;&= ü{secrets.token_urlsafe()}"


def socket(database: Any, server: Any) -> str:
    return str(database.url)


def socket_as_host(database: Any, server: Any) -> str:
    dsn = PostgresDSN.parse(database.url)
    return f"postgres://app_user@{quote(dsn.hosts[0], safe='')}:{dsn.ports[0]}/{database.name}"


def asyncpg_over_tcp(database: Any, server: Any) -> str:
    return f"postgresql+asyncpg://app_user:{server.password}@127.0.0.1:{server.tcp[1]}/{database.name}?ssl=prefer"


def psycopg_with_libpq_parameters(database: Any, server: Any) -> str:
    return (
        f"postgresql+psycopg://app_user:{server.password}@127.0.0.1:{server.tcp[1]}/{database.name}"
        "?sslmode=disable&application_name=a%20b&options=-c%20statement_timeout%3D60s"
    )


def awkward_password(database: Any, server: Any) -> str:
    with psycopg2.connect(server.superuser_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'awkward'")
        if cursor.fetchone() is None:
            cursor.execute(
                sql.SQL("CREATE ROLE awkward LOGIN PASSWORD {} IN ROLE app_user").format(sql.Literal(AWKWARD))
            )
    return f"postgresql+psycopg2://awkward:{quote(AWKWARD, safe='')}@127.0.0.1:{server.tcp[1]}/{database.name}"


def several_hosts_the_first_dead(database: Any, server: Any) -> str:
    port = server.tcp[1]
    return f"postgresql://app_user:{server.password}@127.0.0.1:1,127.0.0.1:{port}/{database.name}?target_session_attrs=read-write"


@pytest.mark.parametrize(
    "form",
    [
        socket,
        socket_as_host,
        asyncpg_over_tcp,
        psycopg_with_libpq_parameters,
        awkward_password,
        several_hosts_the_first_dead,
    ],
    ids=lambda form: form.__name__,
)
def test_a_worker_runs_on(form: Callable[[Any, Any], str], database: Any, server: Any, start_worker: Any) -> None:
    if server.tcp is None:
        pytest.skip("the server of DATABASE_URL is not ours: its sockets, ports and roles are unknown")
    url = form(database, server)
    worker = start_worker(url)
    app = create_app(Settings(database_url=url, _env_file=None))
    try:
        assert app.tasks["app.tasks.housekeeping.ping"].delay().get(timeout=30)["status"] == "ok"
        assert worker.info.get("/health")[0] == 200
    finally:
        app.close()
        celery_app.set_current()
    assert quote(AWKWARD, safe="") not in worker.log_text()
    assert AWKWARD not in worker.log_text()
