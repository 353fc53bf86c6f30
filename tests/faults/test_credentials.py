"""The password of the role, and the certificate of the server, are replaced under load; nothing is restarted."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import celery_postgres
from benchmarks import servers
from environment.cluster import APP_DATABASE, APP_ROLE
from environment.temporary import TemporaryCluster
from environment.testkit.machine import debians_postgresql
from environment.testkit.tables import run
from environment.waiting import wait_until
from tests.faults.conftest import reach
from tests.faults.field import RECOVERY_S, Field, Outcome
from tests.tls.conftest import Certificates, TLSServer

Judge = Callable[..., Outcome]

REFUSED = "the broker cannot be reached"
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app_user'"


def until_refused(field: Field, cluster: TemporaryCluster) -> None:
    """End every session; return when each worker was refused a new one, and the publisher too."""
    refusals = [worker.log_text().count(REFUSED) for worker in field.workers]
    publishers = field.refused()
    run(cluster.superuser_url, TERMINATE)

    def refused() -> bool:
        now = [worker.log_text().count(REFUSED) for worker in field.workers]
        return field.refused() > publishers and all(a > b for a, b in zip(now, refusals, strict=True))

    wait_until(refused, RECOVERY_S, "workers and the publisher to be refused", 0.2)


def test_a_password_that_is_rotated(cluster: TemporaryCluster, judge: Judge, tmp_path: Path, quick: bool) -> None:
    """It comes from a file (``passfile``), which libpq reads each time; the server knows the new one first."""
    passfile = tmp_path / "pgpass"

    def write(password: str) -> None:
        passfile.write_text(f"127.0.0.1:{cluster.port}:{APP_DATABASE}:{APP_ROLE}:{password}\n")
        passfile.chmod(0o600)

    write(cluster.password)
    url = f"postgresql://{APP_ROLE}@127.0.0.1:{cluster.port}/{APP_DATABASE}?passfile={passfile}"
    with Field(reach(url)) as field:
        field.worker("threads")
        field.worker("prefork", 2)
        field.publish()
        rounds = 1 if quick else 4
        for _ in range(rounds):
            field.progress(40)
            password = secrets.token_urlsafe()
            with field.fault():
                run(cluster.superuser_url, f"ALTER ROLE {APP_ROLE} PASSWORD '{password}'")
                until_refused(field, cluster)
                write(password)
            field.progress(40)
        field.noted["rotated"] = rounds
        judge(field.finish("password rotated"))


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[TLSServer]:
    cluster = debians_postgresql("TLS")
    cluster.options |= servers.POSTGRES
    with cluster:
        celery_postgres.create_schema(cluster.url())
        server = TLSServer(cluster, Certificates(tmp_path))
        server.show("server")
        yield server


def test_a_certificate_that_expires_and_is_replaced(tls_server: TLSServer, judge: Judge) -> None:
    """``sslmode=verify-full``: nobody connects to a server whose certificate has expired, until it has another."""
    cluster = tls_server.cluster
    with Field(reach(tls_server.url())) as field:
        field.worker("threads")
        field.worker("prefork", 2)
        field.publish()
        field.progress(40)
        with field.fault():
            tls_server.install("expired")
            run(cluster.superuser_url, "SELECT pg_reload_conf()")
            until_refused(field, cluster)
            tls_server.install("renewed")
            run(cluster.superuser_url, "SELECT pg_reload_conf()")
        field.progress(40)
        judge(field.finish("certificate expired, then replaced"), url=cluster.url())
