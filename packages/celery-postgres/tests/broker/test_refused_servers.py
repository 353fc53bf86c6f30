"""Servers that answer to PostgreSQL's protocol and cannot be used are refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from celery import Celery
from kombu import Connection

from celery_postgres import install, migrate
from celery_postgres.database import server
from celery_postgres.database.session import Session
from celery_postgres.errors import ReadOnlyError, UnsupportedServerError
from environment.temporary import TemporaryCluster
from environment.testkit.engine import ENGINES, Engine, EngineServer
from environment.testkit.standby import Standby


def publish(url: str) -> None:
    with Connection(url) as connection:
        connection.SimpleQueue("any").put("text")


def ask_for_a_result(url: str) -> None:
    assert Celery(broker=url, backend=url).AsyncResult("any").state


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_refused_by_what_it_lacks(name: str) -> None:
    with EngineServer(ENGINES[name]) as engine:
        with pytest.raises(UnsupportedServerError) as refused:
            Session(engine.url)
        text = str(refused.value)
        assert "\n" not in text
        assert "use PostgreSQL 14 or newer" in text
        known = "CockroachDB" if "CockroachDB" in name else "PostgreSQL 16" if "DSQL" in name else name
        assert f"the server is {known}, which" in text


@pytest.mark.parametrize("use", [publish, ask_for_a_result, migrate, Session], ids=lambda use: use.__name__)
def test_the_first_to_connect_is_told(use: Callable[[str], object]) -> None:
    install()
    with EngineServer(ENGINES["Amazon Aurora DSQL"]) as engine, pytest.raises(UnsupportedServerError) as refused:
        use(engine.url)
    assert "lacks LISTEN, NOTIFY, advisory locks" in str(refused.value)


@pytest.mark.parametrize("command", [["migrate"], ["check"], ["queues"], ["version"]], ids=" ".join)
def test_a_command_prints_one_line(command: list[str]) -> None:
    with EngineServer(ENGINES["CockroachDB"]) as engine:
        done = subprocess.run(
            [sys.executable, "-m", "celery_postgres", *command],
            env=os.environ | {"CELERY_BROKER_URL": engine.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("celery_postgres: the server is CockroachDB, which cannot be used: it has no LISTEN")


def test_a_worker_ends_with_that_line() -> None:
    with EngineServer(ENGINES["YugabyteDB"]) as engine:
        done = subprocess.run(
            [sys.executable, "-m", "celery_postgres", "run", "--", "celery", "-b", engine.url, "worker", "-P", "solo"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode != 0
    assert "the server is YugabyteDB, which lacks LISTEN: use PostgreSQL" in done.stderr


def test_a_server_is_asked_once_in_a_process() -> None:
    engine = Engine("PostgreSQL 17.2", "17.2", {r"inet_client_addr": ("XX000", "not here")})
    with EngineServer(engine) as answers:
        for _ in range(3):
            with pytest.raises(psycopg2.Error, match="not here"):
                Session(answers.url)
    assert sum("celery_postgres_probe" in query for query in answers.asked) == 1


@contextmanager
def another_database(url: str, name: str, options: str) -> Iterator[str]:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"DROP DATABASE IF EXISTS {name}")
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE 'C' {options}")
        try:
            yield psycopg2.extensions.make_dsn(url, dbname=name)
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_without_unicode_is_refused(private_cluster: TemporaryCluster, encoding: str) -> None:
    with (
        another_database(private_cluster.superuser_url, "narrow", f"ENCODING '{encoding}'") as dsn,
        pytest.raises(UnsupportedServerError, match=f"the database has the encoding {encoding}.*ENCODING 'UTF8'"),
    ):
        migrate(dsn)


def test_a_standby_can_be_read(private_cluster: TemporaryCluster) -> None:
    migrate(private_cluster.url())
    with Standby(private_cluster) as standby:
        for _ in range(2):
            with closing(Session(standby.url())) as session:
                assert session.run("find_queue", queue="none") == []
                with pytest.raises(ReadOnlyError, match="connect to the primary"):
                    session.run("block_task", task="any")


def test_trying_out_leaves_nothing_behind(module_database: Any) -> None:
    with closing(psycopg2.connect(module_database.url)) as connection:
        connection.autocommit = True
        server.verify(connection)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_listening_channels()")
            assert cursor.fetchone() == (0,)
            cursor.execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'")
            assert cursor.fetchone() == (0,)
            cursor.execute("SELECT source FROM pg_settings WHERE name = 'plan_cache_mode'")
            assert cursor.fetchone() == ("default",)
