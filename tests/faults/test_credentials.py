"""The role's password and the server's certificate are replaced under load, without a restart."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import celery_postgres
from environment.cluster import APP_DATABASE, APP_ROLE
from environment.temporary import TemporaryCluster
from environment.testkit import servers
from environment.testkit.machine import debians_postgresql
from environment.testkit.tables import run
from environment.waiting import wait_until
from tests.faults.conftest import broker_variables
from tests.faults.load import RECOVERY_S, Load, Outcome
from tests.tls.conftest import Certificates, TLSServer

Verify = Callable[..., Outcome]

REFUSED = "Cannot reach the broker"
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app_user'"


def until_refused(load: Load, cluster: TemporaryCluster) -> None:
    """Terminate every session; return when the server has refused a new one to each worker and to the publisher."""
    refusals = [worker.log_text().count(REFUSED) for worker in load.workers]
    publishers = load.refusals()
    run(cluster.superuser_url, TERMINATE)

    def refused() -> bool:
        now = [worker.log_text().count(REFUSED) for worker in load.workers]
        return load.refusals() > publishers and all(a > b for a, b in zip(now, refusals, strict=True))

    wait_until(refused, RECOVERY_S, "workers and the publisher to be refused", 0.2)


def test_a_password_that_is_rotated(cluster: TemporaryCluster, verify: Verify, tmp_path: Path, quick: bool) -> None:
    """libpq reads the password from a file (``passfile``) at each connect; the server changes it first."""
    passfile = tmp_path / "pgpass"

    def write(password: str) -> None:
        passfile.write_text(f"127.0.0.1:{cluster.port}:{APP_DATABASE}:{APP_ROLE}:{password}\n")
        passfile.chmod(0o600)

    write(cluster.password)
    url = f"postgresql://{APP_ROLE}@127.0.0.1:{cluster.port}/{APP_DATABASE}?passfile={passfile}"
    with Load(broker_variables(url)) as load:
        load.worker("threads")
        load.worker("prefork", 2)
        load.publish()
        rounds = 1 if quick else 4
        for _ in range(rounds):
            load.wait_for_tasks(40)
            password = secrets.token_urlsafe()
            with load.fault():
                run(cluster.superuser_url, f"ALTER ROLE {APP_ROLE} PASSWORD '{password}'")
                until_refused(load, cluster)
                write(password)
            load.wait_for_tasks(40)
        load.notes["rotated"] = rounds
        verify(load.finish("password rotated"))


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[TLSServer]:
    cluster = debians_postgresql("TLS")
    cluster.options |= servers.POSTGRES
    with cluster:
        celery_postgres.create_schema(cluster.url())
        server = TLSServer(cluster, Certificates(tmp_path))
        server.show("server")
        yield server


def test_a_certificate_that_expires_and_is_replaced(tls_server: TLSServer, verify: Verify) -> None:
    """``sslmode=verify-full``: clients refuse a server whose certificate has expired until it is replaced."""
    cluster = tls_server.cluster
    with Load(broker_variables(tls_server.url())) as load:
        load.worker("threads")
        load.worker("prefork", 2)
        load.publish()
        load.wait_for_tasks(40)
        with load.fault():
            tls_server.install("expired")
            run(cluster.superuser_url, "SELECT pg_reload_conf()")
            until_refused(load, cluster)
            tls_server.install("renewed")
            run(cluster.superuser_url, "SELECT pg_reload_conf()")
        load.wait_for_tasks(40)
        verify(load.finish("certificate expired, then replaced"), url=cluster.url())
