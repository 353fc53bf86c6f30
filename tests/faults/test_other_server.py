"""The database moves to another server: runs the commands of docs/backend/other-server.md."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from environment.cluster import APP_DATABASE, APP_ROLE, Cluster
from environment.errors import UserError
from environment.installation import DEFAULT_MAJOR, Installation, find_installation
from environment.temporary import TemporaryCluster
from environment.testkit import servers
from environment.testkit.databases import rows, run
from environment.testkit.journal_app import QUEUE
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until
from tests.faults.conftest import broker_variables
from tests.faults.load import RECOVERY_S, Load, Outcome
from tests.runbook.pages import blocks

Verify = Callable[..., Outcome]

PAGE = "docs/backend/other-server.md"
NEWER_MAJOR = 18
#: Sequences that are behind the ids in their tables.
BEHIND = """
    SELECT sequence.name FROM (VALUES
        ('message_id_sequence', (SELECT max(id) FROM kombu_message)),
        ('queue_id_sequence', (SELECT max(id) FROM kombu_queue)),
        ('task_id_sequence', (SELECT max(id) FROM celery_taskmeta))
    ) AS sequence (name, highest)
    JOIN pg_sequences ON pg_sequences.sequencename = sequence.name
    WHERE sequence.highest > coalesce(pg_sequences.last_value, 0)
"""


@pytest.fixture
def newer(cluster: TemporaryCluster) -> Installation:
    """A PostgreSQL of a newer major that the account of ``cluster`` can run."""
    try:
        return find_installation(NEWER_MAJOR).reachable_by(cluster.account)
    except UserError as error:
        pytest.skip(f"{error}: the wheel has it")


@pytest.fixture
def other(cluster: TemporaryCluster, request: pytest.FixtureRequest) -> Iterator[TemporaryCluster]:
    """Another server with an empty database, of the major that the test names."""
    with servers.postgres(getattr(request, "param", DEFAULT_MAJOR)) as other:
        yield other


def admin(cluster: Cluster) -> str:
    """The URL of the application's database as superuser."""
    return cluster.url("postgres", APP_DATABASE)


def type_section(section: str, numbers: list[int], account_of: Cluster, path: Path, **names: object) -> str:
    """Run blocks of one section of the page as the server's account, and return their output.

    Args:
        section: its heading.
        numbers: which blocks of it, from 1.
        account_of: the cluster whose account runs them.
        path: the folder of the PostgreSQL programs.
        names: variables of the shell.
    """
    of_page = [block for block in blocks(PAGE) if block.section == section]
    set_up = [f"{name}={shlex.quote(str(value))}" for name, value in names.items()]
    set_up.append(f"PATH={shlex.quote(str(path))}:$PATH; export PATH")
    text = "\n".join([*set_up, *(of_page[number - 1].text for number in numbers)])
    done = account_of.account.run(["bash", "-euo", "pipefail", "-c", text])
    assert done.returncode == 0, done.stdout
    return done.stdout


def stop_worker(load: Load) -> None:
    """Send TERM to the first worker and wait until it has drained."""
    process = load.workers[0].process
    process.send_signal(signal.SIGTERM)
    process.wait(RECOVERY_S)


def stored(url: str) -> int:
    return int(scalar(url, "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"))


def test_a_backup_is_restored(load: Load, cluster: TemporaryCluster, other: TemporaryCluster) -> None:
    """Tasks published before the backup run; new ids continue after those of the backup."""
    old, new = admin(cluster), admin(other)
    names = {"old": old, "new": new, "backup": cluster.home / "backup"}
    load.worker("threads", 1)
    load.publish(rate=40, seconds=0.05)
    load.wait_for_accepted(20)
    before = len(load.published())
    type_section("Restore a backup", [1], cluster, cluster.installation.bin, **names)
    load.wait_for_tasks(5)
    load.end_publishing()
    stop_worker(load)

    type_section("Restore a backup", [2, 3], cluster, other.installation.bin, **names)

    waiting = rows_of(other.url(), QUEUE)
    assert waiting > 0
    assert rows(other.url(), BEHIND) == []
    load.worker("threads", 4, variables=broker_variables(other.tcp_url()))
    wait_until(lambda: rows_of(other.url(), QUEUE) == 0, RECOVERY_S, "the backup's messages to be done", 0.2)
    assert stored(other.url()) >= before


def test_a_move_with_a_dump(load: Load, cluster: TemporaryCluster, other: TemporaryCluster) -> None:
    """Every accepted task runs once; the old database accepts no more writes."""
    names = {"old": admin(cluster), "new": admin(other)}
    load.worker("threads", 1)
    load.publish(rate=40, seconds=0.05)
    load.wait_for_accepted(40)
    load.end_publishing()
    stop_worker(load)
    accepted = load.published().keys()

    type_section("Move with a dump", [1, 2], cluster, other.installation.bin, **names)

    assert rows_of(other.url(), QUEUE) > 0
    assert rows(other.url(), BEHIND) == []
    assert scalar(cluster.url(), "SHOW default_transaction_read_only") == "on"
    load.worker("threads", 4, variables=broker_variables(other.tcp_url()))
    wait_until(lambda: rows_of(other.url(), QUEUE) == 0, RECOVERY_S, "all messages to be done", 0.2)
    assert stored(other.url()) == len(accepted)
    assert {len(moments) for moments in load.ends().values()} == {1}


@pytest.mark.parametrize("other", [NEWER_MAJOR], indirect=True)
def test_a_move_by_logical_replication_under_load(
    cluster: TemporaryCluster, newer: Installation, other: TemporaryCluster, verify: Verify
) -> None:
    """Workers and the publisher switch by themselves, to a newer major."""
    cluster.options["wal_level"] = "logical"
    cluster.restart()
    hosts = f"host={cluster.sockets},{other.sockets}&port={cluster.port},{other.port}"
    url = f"postgresql://{APP_ROLE}@/{APP_DATABASE}?{hosts}&target_session_attrs=read-write&connect_timeout=5"
    names = {"old": admin(cluster), "new": admin(other)}
    section = "Move by logical replication"

    def typed(*numbers: int) -> str:
        return type_section(section, list(numbers), cluster, newer.bin, **names)

    with Load(broker_variables(url)) as load:
        load.worker("threads")
        load.worker("prefork", 2)
        load.publish()
        load.wait_for_tasks(20)
        typed(1)
        wait_until(lambda: typed(2).startswith("0\n"), RECOVERY_S, "every table to be copied", 0.2)
        load.wait_for_tasks(20)
        with load.fault():
            typed(3)
            assert typed(4).splitlines()[-1] == "t"
            assert "move" not in typed(5).splitlines()[-2]
        assert rows(other.url(), BEHIND) == []
        load.wait_for_tasks(40)
        outcome = verify(load.finish(f"moved by logical replication, to PostgreSQL {NEWER_MAJOR}"), other.url())
    assert scalar(cluster.url(), "SHOW default_transaction_read_only") == "on"
    assert outcome.finished_again == outcome.published_again


def test_an_upgrade_in_place_under_load(
    load: Load, cluster: TemporaryCluster, newer: Installation, verify: Verify
) -> None:
    """Workers and the publisher wait for the server, and continue on the newer one."""
    upgraded = Cluster(
        newer, cluster.account, cluster.home / "upgraded", sockets=cluster.sockets, options=cluster.options, tcp=True
    )
    upgraded.port = cluster.port
    scratch = cluster.home / "scratch"
    for folder in (upgraded.home, scratch):
        folder.mkdir()
        if not cluster.account.is_current:
            os.chown(folder, cluster.account.uid, cluster.account.gid)
    upgraded.initialize(sync=False)
    unchecked = cluster.account.run([newer.program("pg_checksums"), "--disable", "--pgdata", upgraded.data])
    assert unchecked.returncode == 0, unchecked.stdout
    names = {
        **{"old_bin": cluster.installation.bin, "old_data": cluster.data, "new": admin(upgraded)},
        **{"new_bin": newer.bin, "new_data": upgraded.data, "scratch": scratch},
    }
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    load.wait_for_tasks(20)
    try:
        with load.fault():
            type_section("Upgrade in place", [1], cluster, newer.bin, **names)
            upgraded.start()
        assert type_section("Upgrade in place", [2], cluster, newer.bin, **names).split()[-1] == str(NEWER_MAJOR)
        load.wait_for_tasks(40)
        run(admin(upgraded), "CHECKPOINT")
        verify(load.finish(f"upgraded in place, to PostgreSQL {NEWER_MAJOR}"), upgraded.url())
    finally:
        upgraded.stop("immediate")
