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
from environment.testkit.probe import Probe
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until

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
def follower(private_cluster: TemporaryCluster) -> Iterator[Standby]:
    """Of `private_cluster`, whose commits do not wait for it."""
    if not os.access(private_cluster.installation.program("pg_basebackup"), os.X_OK):
        pytest.skip("this PostgreSQL comes without pg_basebackup")
    celery_postgres.create_schema(PostgresDSN.parse(private_cluster.url()).libpq())
    standby = Standby(private_cluster)
    standby.start()
    try:
        yield standby
    finally:
        standby.stop("immediate")


@pytest.fixture
def standby(private_cluster: TemporaryCluster, follower: Standby) -> Standby:
    """Of `private_cluster`, whose commits wait for it."""
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
    return follower


def either(primary: TemporaryCluster, standby: Standby) -> str:
    """Whichever of the two takes writes."""
    hosts = f"host=127.0.0.1,127.0.0.1&port={standby.port},{primary.port}"
    return f"postgresql://{APP_ROLE}:{primary.password}@/{APP_DATABASE}?{hosts}&target_session_attrs=read-write"


def test_workers_and_producers_go_on_with_the_new_primary(
    private_cluster: TemporaryCluster, standby: Standby, make_probe: Callable[..., Probe]
) -> None:
    probe = make_probe(either(private_cluster, standby))
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


@pytest.mark.long
def test_a_standby_that_lacks_a_hundred_messages_becomes_the_primary(
    private_cluster: TemporaryCluster, follower: Standby, make_probe: Callable[..., Probe]
) -> None:
    """What it lacks is lost, whoever promotes it. Nothing else is: ids come again, and belong to new messages."""
    probe = make_probe(either(private_cluster, follower))
    for _ in range(2):
        # Without events, which would take ids.
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        probe.start(pool="threads", concurrency=6, conf={"worker_prefetch_multiplier": 1}, args=quiet)
    held = [f"held-{number}" for number in range(2)]
    for tag in held:
        probe.send("run_late", tag, "gate")
    probe.wait_for_all("start", held)
    claimed = "SELECT count(*) FROM kombu_message WHERE NOT visible"
    wait_until(lambda: scalar(follower.url(), claimed) == 2, DEADLINE_S, "the standby to have that")
    run(follower.superuser_url, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
    following = "SELECT count(*) FROM pg_stat_replication"
    wait_until(lambda: not scalar(private_cluster.superuser_url, following), DEADLINE_S, "it to follow no more")

    # A hundred messages; those of two tasks stay claimed until after the failover.
    done, lost = [f"done-{number}" for number in range(98)], [f"lost-{number}" for number in range(2)]
    for tag in done:
        probe.send("run_late", tag)
    probe.wait_for_all("end", done, DEADLINE_S)
    for tag in lost:
        probe.send("run_late", tag, "gate")
    probe.wait_for_all("start", lost, DEADLINE_S)
    ids = scalar(private_cluster.url(), "SELECT array_agg(id ORDER BY id) FROM kombu_message")[-2:]
    private_cluster.kill()
    run(follower.superuser_url, "SELECT pg_promote()")

    # New ones, until the last two have the ids of those two.
    new: list[str] = []
    while not new or scalar(follower.url(), "SELECT last_value FROM message_id_sequence") < ids[0] - 1:
        new.append(f"new-{len(new)}")
        probe.send("run_late", new[-1], retry=True)
    probe.wait_for_all("end", new, DEADLINE_S)
    again = [f"again-{number}" for number in range(2)]
    for tag in again:
        probe.send("run_late", tag, "later")
    probe.wait_for_all("start", again, DEADLINE_S)
    newest = "SELECT array_agg(id ORDER BY id) FROM kombu_message WHERE id >= :id"
    assert scalar(follower.url(), newest, id=ids[0]) == ids
    (probe.folder / "gates" / "gate").touch()
    probe.wait_for_all("end", [*held, *lost], DEADLINE_S)
    older = "SELECT count(*) FROM kombu_message WHERE id < :id"
    wait_until(lambda: not scalar(follower.url(), older, id=ids[0]), DEADLINE_S, "the acknowledgements of what ended")
    for worker in probe.workers:
        worker.kill()
    probe.start(pool="threads")
    (probe.folder / "gates" / "later").touch()

    probe.wait_for_all("end", again, DEADLINE_S)
    wait_until(lambda: rows_of(follower.url()) == 0, DEADLINE_S, "the last acknowledgement")
    assert scalar(follower.url(), "SELECT count(*) FROM kombu_dead_letter") == 0
    stored = "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"
    assert scalar(follower.url(), stored) >= len([*new, *again])
