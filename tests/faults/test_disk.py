"""The file system of the server is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import psycopg2
import pytest

from environment.temporary import TemporaryCluster
from environment.waiting import wait_until
from tests.faults.disk import SmallDisk
from tests.faults.field import RECOVERY_S, Field, Outcome

Judge = Callable[[Outcome], Outcome]


@pytest.fixture
def disk(cluster: TemporaryCluster, root: None) -> Iterator[SmallDisk]:
    # Little WAL, or it fills the disk by itself.
    cluster.options |= {"shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "48MB"}
    with SmallDisk(cluster, 160) as disk:
        yield disk


def test_a_disk_without_room_for_rows(
    disk: SmallDisk, field: Field, cluster: TemporaryCluster, judge: Judge, quick: bool
) -> None:
    """Tables cannot grow: statements fail with 53100, the server goes on."""
    field.worker("threads")
    field.worker("prefork", 2)
    field.publish()
    for _ in range(1 if quick else 3):
        field.progress(40)
        refused = field.refused()
        with field.fault():
            disk.fill()
            wait_until(lambda before=refused: field.refused() >= before + 20, RECOVERY_S, "publishers to fail", 0.2)
            disk.free()
    field.noted["publishes refused"] = field.refused()
    judge(field.finish("disk full: no room for rows"))
    assert "could not extend file" in cluster.log.read_text()


def test_a_disk_without_room_for_wal(disk: SmallDisk, field: Field, cluster: TemporaryCluster, judge: Judge) -> None:
    """A forgotten replication slot keeps all WAL.  The server panics, cannot recover either, and ends."""
    field.worker("threads")
    field.worker("prefork", 2)
    field.publish()
    superuser(cluster, "SELECT pg_create_physical_replication_slot('forgotten', true)")
    with field.fault():
        disk.fill()
        wait_until(lambda: gave_up(cluster), RECOVERY_S, "PostgreSQL to give up", 0.1)
        disk.free()
    field.noted["PostgreSQL"] = "panicked and ended"
    superuser(cluster, "SELECT pg_drop_replication_slot('forgotten')")
    judge(field.finish("disk full: no room for WAL"))
    assert "PANIC:  could not write to file" in cluster.log.read_text()


def gave_up(cluster: TemporaryCluster) -> bool:
    """Ask for one WAL segment after the other, until there is no room for one; whether the server is gone."""
    with suppress(psycopg2.Error):
        superuser(cluster, "SELECT pg_logical_emit_message(false, 'fill', 'x'), pg_switch_wal()")
    return cluster.pid() is None


def superuser(cluster: TemporaryCluster, statement: str) -> None:
    with closing(psycopg2.connect(cluster.superuser_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)
