"""The server's disk is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import psycopg2
import pytest

from environment.temporary import TemporaryCluster
from environment.testkit.small_disk import SmallDisk
from environment.waiting import wait_until
from tests.faults.load import RECOVERY_S, Load, Outcome

Verify = Callable[[Outcome], Outcome]


@pytest.fixture
def disk(cluster: TemporaryCluster, root: None) -> Iterator[SmallDisk]:
    # A small WAL, which would fill the disk by itself otherwise.
    cluster.options |= {"shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "48MB"}
    with SmallDisk(cluster, 160) as disk:
        yield disk


def test_a_disk_without_room_for_rows(
    disk: SmallDisk, load: Load, cluster: TemporaryCluster, verify: Verify, quick: bool
) -> None:
    """Tables cannot grow: statements fail with 53100, and the server keeps running."""
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    for _ in range(1 if quick else 3):
        load.wait_for_tasks(40)
        refused = load.refusals()
        with load.fault():
            disk.fill()
            wait_until(lambda before=refused: load.refusals() >= before + 20, RECOVERY_S, "publishers to fail", 0.2)
            disk.free()
    load.notes["publishes refused"] = load.refusals()
    verify(load.finish("disk full: no room for rows"))
    assert "could not extend file" in cluster.log.read_text()


def test_a_disk_without_room_for_wal(disk: SmallDisk, load: Load, cluster: TemporaryCluster, verify: Verify) -> None:
    """A forgotten replication slot retains all WAL.  The server panics, cannot recover, and stops."""
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    superuser(cluster, "SELECT pg_create_physical_replication_slot('forgotten', true)")
    with load.fault():
        disk.fill()
        wait_until(lambda: gave_up(cluster), RECOVERY_S, "PostgreSQL to give up", 0.1)
        disk.free()
    load.notes["PostgreSQL"] = "panicked and ended"
    superuser(cluster, "SELECT pg_drop_replication_slot('forgotten')")
    verify(load.finish("disk full: no room for WAL"))
    assert "PANIC:  could not write to file" in cluster.log.read_text()


def gave_up(cluster: TemporaryCluster) -> bool:
    """Switch to another WAL segment; return whether the server has stopped for lack of room."""
    with suppress(psycopg2.Error):
        superuser(cluster, "SELECT pg_logical_emit_message(false, 'fill', 'x'), pg_switch_wal()")
    return cluster.pid() is None


def superuser(cluster: TemporaryCluster, statement: str) -> None:
    with closing(psycopg2.connect(cluster.superuser_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)
