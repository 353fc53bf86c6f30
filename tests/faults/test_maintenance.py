"""Maintenance of the tables by a DBA, under load."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import chain

import psycopg2
import pytest

from environment.temporary import TemporaryCluster
from environment.testkit.tables import run
from tests.faults.load import Load, Outcome

TABLES = ("kombu_message", "kombu_queue", "kombu_consumer", "celery_taskmeta")
#: For each table; statements that take an exclusive lock wait for claims, and claims wait for them.
WORK = (
    "VACUUM FULL {}",
    "REINDEX TABLE {}",
    "REINDEX TABLE CONCURRENTLY {}",
    "ANALYZE {}",
    "VACUUM (FREEZE, ANALYZE) {}",
    "ALTER TABLE {} SET (fillfactor = 70)",
    "ALTER TABLE {} ADD COLUMN noted_by_a_dba text, ALTER COLUMN noted_by_a_dba SET DEFAULT 'x'",
    "ALTER TABLE {} DROP COLUMN noted_by_a_dba",
)


def test_maintenance_of_the_tables_under_load(
    load: Load, cluster: TemporaryCluster, verify: Callable[[Outcome], Outcome], quick: bool
) -> None:
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    rounds = 1 if quick else 5
    for statement in chain.from_iterable([WORK] * rounds):
        with load.fault():
            run(cluster.url(), *(statement.format(table) for table in TABLES))
        load.wait_for_tasks(20)
    load.notes["statements"] = rounds * len(WORK) * len(TABLES)
    outcome = verify(load.finish("VACUUM FULL, REINDEX, ANALYZE, ALTER"))
    assert outcome.finished_again == 0


@pytest.mark.parametrize("tables", [TABLES, *((table,) for table in TABLES)], ids=["all", *TABLES])
def test_tables_that_are_locked_for_seconds(
    load: Load, cluster: TemporaryCluster, verify: Callable[[Outcome], Outcome], tables: tuple[str, ...], quick: bool
) -> None:
    """Another transaction holds an exclusive lock for longer than the statement timeout and the lease."""
    if quick and tables != TABLES:
        pytest.skip("single tables without --quick only")
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    with closing(psycopg2.connect(cluster.url(), application_name="occupant")) as holder, holder.cursor() as cursor:
        with load.fault():
            cursor.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
            cursor.execute("SELECT pg_sleep(%s)", [5 if quick else 40])
            holder.rollback()
        load.wait_for_tasks(20)
    name = tables[0] if len(tables) == 1 else "all tables"
    outcome = verify(load.finish(f"{name} locked"))
    assert outcome.finished_again == 0
