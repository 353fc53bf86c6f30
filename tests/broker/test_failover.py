"""The primary is lost and its standby promoted, while tasks wait, run and are sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

import celery_postgres
from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.db.checks import DatabaseReadOnly, check_database
from environment.cluster import APP_DATABASE, APP_ROLE, Cluster
from environment.temporary import TemporaryCluster
from environment.waiting import wait_until
from tests.broker.probe import Probe
from tests.broker.sql import rows_of, run, scalar

DEADLINE_S = 60
SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


class Standby(Cluster):
    """A copy of a running server, which follows it; it lies beside the primary's data, and is gone with it."""

    def __init__(self, primary: TemporaryCluster) -> None:
        home = primary.home / "standby"
        home.mkdir()
        if not primary.account.is_current:
            os.chown(home, primary.account.uid, primary.account.gid)
        super().__init__(primary.installation, primary.account, home, options=primary.options, tcp=True)
        copied = self.account.run(
            [
                *(primary.installation.program("pg_basebackup"), "--pgdata", self.data, "--write-recovery-conf"),
                *("--host", primary.sockets, "--port", str(primary.port), "--username", "postgres"),
                *("--checkpoint=fast", "--no-sync", "--wal-method=stream"),
            ]
        )
        assert copied.returncode == 0, copied.stdout


@pytest.fixture
def standby(private_cluster: TemporaryCluster) -> Iterator[Standby]:
    """Of `private_cluster`, whose commits wait for it."""
    if not os.access(private_cluster.installation.program("pg_basebackup"), os.X_OK):
        pytest.skip("this PostgreSQL comes without pg_basebackup")
    celery_postgres.create_schema(PostgresDSN.parse(private_cluster.url()).libpq())
    standby = Standby(private_cluster)
    standby.start()
    try:
        # The temporary server's command line has synchronous_commit=off, and a role's setting goes before that.
        run(
            private_cluster.superuser_url,
            f"ALTER ROLE {APP_ROLE} SET synchronous_commit = 'on'",
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
            "SELECT pg_reload_conf()",
        )
        wait_until(
            lambda: scalar(private_cluster.superuser_url, SYNCHRONOUS),
            DEADLINE_S,
            "the standby to be synchronous",
        )
        yield standby
    finally:
        standby.stop("immediate")


def test_workers_and_producers_go_on_with_the_new_primary(
    private_cluster: TemporaryCluster, standby: Standby, make_probe: Callable[..., Probe]
) -> None:
    hosts = f"host=127.0.0.1,127.0.0.1&port={standby.port},{private_cluster.port}"
    probe = make_probe(
        f"postgresql://{APP_ROLE}:{private_cluster.password}@/{APP_DATABASE}?{hosts}&target_session_attrs=read-write"
    )
    worker = probe.start()
    running = probe.send("run_late", "running", "gate")
    wait_until(lambda: probe.notes("start", "running"), DEADLINE_S, "a task that runs")
    waiting = [probe.send("run_late", f"waiting-{number}") for number in range(5)]

    with pytest.raises(DatabaseReadOnly, match="it takes no writes: it is a standby"):
        check_database(Settings(database_url=standby.url(), _env_file=None))
    private_cluster.kill()
    (probe.folder / "gates" / "gate").touch()  # it ends while there is no primary
    run(standby.superuser_url, "SELECT pg_promote()")

    later = [probe.send("run_late", f"later-{number}") for number in range(5)]  # the same connection
    ends = [result.get(timeout=DEADLINE_S) for result in (running, *waiting, *later)]
    assert len(ends) == 11
    assert worker.process.poll() is None
    assert {len(probe.notes("end", f"{when}-{number}")) for when in ("waiting", "later") for number in range(5)} == {1}
    assert len(probe.notes("end", "running")) == 1
    wait_until(lambda: rows_of(standby.url(), "celery") == 0, DEADLINE_S, "the last acknowledgement")
