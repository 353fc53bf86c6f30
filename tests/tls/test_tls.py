"""`sslmode=verify-full` holds for every connection: none is made in the clear, and none to a server that is another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.config import Config
from celery import Celery
from kombu import Connection, Queue
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from app.celery_app import celery_app, create_app
from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.db.checks import reason
from app.db.engine import build_engine
from app.observability import probe as monitoring
from environment.errors import UserError
from environment.installation import DEFAULT_MAJOR
from environment.sources import CHECKOUT
from environment.temporary import TemporaryCluster
from environment.testkit.probe import Probe
from environment.waiting import wait_until
from environment.worker import WorkerProcess
from tests.tls.conftest import TLSServer

pytestmark = [pytest.mark.xdist_group("tls"), pytest.mark.usefixtures("installed")]

DEADLINE_S = 90
PING = "app.tasks.housekeeping.ping"
#: (application name, TLS) of every connection over TCP.
SESSIONS = """
    SELECT activity.application_name, ssl.ssl FROM pg_stat_ssl AS ssl JOIN pg_stat_activity AS activity USING (pid)
    WHERE activity.client_addr IS NOT NULL
"""
OWN = text("SELECT ssl.ssl, ssl.version FROM pg_stat_ssl AS ssl WHERE ssl.pid = pg_backend_pid()")


def settings(url: str) -> Settings:
    return Settings(database_url=url, _env_file=None)


def sessions(server: TLSServer) -> dict[str, set[bool]]:
    """By application name whether they are TLS."""
    found: dict[str, set[bool]] = {}
    superuser_url = server.cluster.url("postgres", "postgres")
    with closing(psycopg2.connect(superuser_url)) as connection, connection.cursor() as cursor:
        cursor.execute(SESSIONS)
        for name, encrypted in cursor.fetchall():
            found.setdefault(name, set()).add(encrypted)
    return found


@pytest.fixture
def server(tls_server: TLSServer) -> TLSServer:
    """The server as it should be."""
    tls_server.show("server")
    return tls_server


@pytest.fixture
def program() -> Iterator[Callable[[str], Celery]]:
    """``program(url)``: the application on a database."""
    made: list[Celery] = []

    def make(url: str) -> Celery:
        made.append(create_app(settings(url)))
        return made[-1]

    yield make
    for app in made:
        app.close()
    celery_app.set_current()


# -- with the certificate that it should have


def test_a_worker_and_its_clients_use_tls_alone(
    server: TLSServer, start_worker: Callable[..., WorkerProcess], program: Callable[[str], Celery]
) -> None:
    url = server.url(application_name="the-worker")
    worker = start_worker(url)
    app = program(server.url(application_name="the-client"))
    assert app.tasks[PING].delay().get(timeout=DEADLINE_S)["status"] == "ok"
    assert worker.info.get("/health")[0] == 200
    wait_until(lambda: "celery_queue_ready" in worker.info.get("/metrics")[1], DEADLINE_S, "the queues to be counted")
    assert sessions(server) == {"the-worker": {True}, "the-client": {True}}


def test_broker_results_and_both_listeners_use_tls(server: TLSServer, make_probe: Callable[..., Probe]) -> None:
    probe = make_probe(server.url())
    listen = server.url(application_name="the-listener")
    probe.start(conf={"broker_transport_options": {"listen_dsn": listen}})
    # The client's own listener is there while it waits.
    assert probe.send("run_late", "tag").get(timeout=DEADLINE_S) == "tag"
    found = sessions(server)
    assert found.keys() >= {"probe-0", "the-listener", "probe-results", "probe-client"}
    assert set.union(*found.values()) == {True}


def test_the_applications_engine_and_its_monitoring_use_tls(server: TLSServer) -> None:
    engine = build_engine(settings(server.url()))
    with engine.connect() as connection:
        encrypted, version = connection.execute(OWN).one()
        assert encrypted
        assert version in ("TLSv1.2", "TLSv1.3")
    engine.dispose()
    with closing(monitoring.connect(settings(server.url()))) as connection, connection.cursor() as cursor:
        cursor.execute(OWN.text)
        assert cursor.fetchone()[0]


def test_alembic_uses_tls(server: TLSServer) -> None:
    with closing(psycopg2.connect(server.cluster.url())) as holder, holder.cursor() as cursor:
        # What a second migration waits for.
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('skeldir.alembic', 0))")
        migration = subprocess.Popen(
            [sys.executable, "-m", "alembic.config", "upgrade", "head"],
            env={**os.environ, "DATABASE_URL": server.url()},
            cwd=CHECKOUT,
        )
        name = "skeldir-worker-alembic"
        try:
            wait_until(lambda: name in sessions(server), DEADLINE_S, "the migration to wait for the lock")
            assert sessions(server)[name] == {True}
        finally:
            holder.close()
            assert migration.wait(DEADLINE_S) == 0


def test_a_client_certificate_is_shown_where_one_is_asked_for(
    server: TLSServer, certificates: Any, program: Callable[[str], Celery], start_worker: Callable[..., WorkerProcess]
) -> None:
    engine = create_engine(server.cluster.url("postgres").replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE carded LOGIN PASSWORD '{server.cluster.password}' IN ROLE app_user"))
    engine.dispose()

    def url(name: str) -> str:
        card = {"sslcert": str(certificates.path(f"{name}.pem")), "sslkey": str(certificates.path(f"{name}.key"))}
        return server.url(user="carded", application_name="with-card", **card)

    start_worker(url("carded"))
    app = program(url("carded"))
    assert app.tasks[PING].delay().get(timeout=DEADLINE_S)["status"] == "ok"
    assert sessions(server)["with-card"] == {True}
    for wrong, says in (
        (server.url(user="carded", sslcert="/none"), "connection requires a valid client certificate"),
        # PostgreSQL says to nobody but its log that it is the name in the certificate.
        (url("somebody"), 'authentication failed for user "carded"'),
    ):
        with pytest.raises(Exception, match=says) as caught:
            of_a_publisher(wrong, "")
        assert "\n" not in str(caught.value)


# -- and with any other


def of_the_engine(url: str, socket_url: str) -> None:
    try:
        build_engine(settings(url)).connect()
    except DBAPIError as error:
        raise ConnectionError(reason(error)) from None


def of_a_publisher(url: str, socket_url: str) -> None:
    with _program(url) as app:
        app.conf.broker_transport_options |= {"max_retries": 1, "interval_start": 0}
        app.tasks[PING].apply_async(retry=False)


def of_the_results(url: str, socket_url: str) -> None:
    with _program(url) as app:
        app.conf.result_backend_always_retry = False  # the application waits until the server is right
        _ = app.AsyncResult("nobody").state


def of_the_listener(url: str, socket_url: str) -> None:
    with Connection("sqla+" + socket_url, transport_options={"listen_dsn": url}) as connection:
        connection.Consumer(Queue("tls"), callbacks=[print]).consume()


def of_alembic(url: str, socket_url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        command.upgrade(Config(str(CHECKOUT / "alembic.ini")), "head")


def of_the_queue_tool(url: str, socket_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery_postgres"],
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(CHECKOUT / "backend")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    raise ConnectionError(done.stderr.rstrip("\n"))


class _program:  # noqa: N801
    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> Celery:
        self._app = create_app(settings(self._url))
        return self._app

    def __exit__(self, *_: object) -> None:
        self._app.close()
        celery_app.set_current()


#: What is wrong: the server's certificate, the CA that the client trusts, and what is said of it.
NOT_VERIFIED = (
    "certificate verify failed: the server's has expired or is not yet valid, or no CA in sslrootcert has signed it"
)
FAULTS = {
    "another CA": ("server", "other-ca.pem", NOT_VERIFIED),
    "expired": ("expired", "ca.pem", NOT_VERIFIED),
    "another host": ("elsewhere", "ca.pem", 'does not match host name "127.0.0.1"'),
    "no CA file": ("server", "no-such-file.pem", 'no-such-file.pem" does not exist'),
    "no TLS": (None, "ca.pem", "server does not support SSL, but SSL was required"),
}


@pytest.mark.parametrize(
    "connection",
    [of_the_engine, of_a_publisher, of_the_results, of_the_listener, of_alembic, of_the_queue_tool],
    ids=lambda connection: connection.__name__,
)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_is_another_is_refused(
    tls_server: TLSServer, fault: str, connection: Callable[[str, str], None]
) -> None:
    certificate, ca, says = FAULTS[fault]
    tls_server.show(certificate)
    with pytest.raises(Exception) as caught:  # noqa: PT011  each has an exception of its own
        connection(tls_server.url(ca), tls_server.cluster.url())
    said = str(caught.value)
    assert says in said
    assert "\n" not in said
    assert tls_server.cluster.password not in said
    in_the_clear(tls_server)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_says_what_is_wrong_with_its_server_and_waits(
    tls_server: TLSServer, fault: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    certificate, ca, says = FAULTS[fault]
    tls_server.show(certificate)
    url = tls_server.url(ca)
    worker = start_worker(url, ready=False)
    wait_until(lambda: "cannot be reached" in worker.log_text(), DEADLINE_S, "the first try")
    line = next(line for line in worker.log_text().splitlines() if "cannot be reached" in line)
    assert says in line.replace('\\"', '"')
    assert PostgresDSN.parse(url).describe() in line
    assert tls_server.cluster.password not in worker.log_text()
    assert worker.stop(deadline_s=15) == 0
    in_the_clear(tls_server)


def in_the_clear(server: TLSServer) -> None:
    """Whoever tries without TLS is in the server's log, since pg_hba.conf lets nobody."""
    assert "no encryption" not in server.cluster.log.read_text(errors="replace")


# -- the server that `./dev` brings


def test_the_embedded_server_has_tls_where_it_was_built_with_it(certificates: Any) -> None:
    with TemporaryCluster(DEFAULT_MAJOR, tcp=True) as cluster:
        server = TLSServer(cluster, certificates)
        try:
            server.show("server")
        except UserError as error:
            if "SSL is not supported by this build" not in str(error):
                raise
            pytest.skip("this PostgreSQL (the wheel's) was built without TLS; Debian's has it, in the tests above")
        with closing(psycopg2.connect(server.url())) as connection, connection.cursor() as cursor:
            cursor.execute(OWN.text)
            assert cursor.fetchone()[0]
