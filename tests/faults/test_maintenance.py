"""What a DBA does to the tables while they are used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import chain

import psycopg2
import pytest

from environment.temporary import TemporaryCluster
from environment.testkit.tables import run
from tests.faults.field import Field, Outcome

TABLES = ("kombu_message", "kombu_queue", "kombu_consumer", "celery_taskmeta")
#: Of each table; those that take an exclusive lock wait for claims, and claims wait for them.
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
    field: Field, cluster: TemporaryCluster, judge: Callable[[Outcome], Outcome], quick: bool
) -> None:
    field.worker("threads")
    field.worker("prefork", 2)
    field.publish()
    rounds = 1 if quick else 5
    for statement in chain.from_iterable([WORK] * rounds):
        with field.fault():
            run(cluster.url(), *(statement.format(table) for table in TABLES))
        field.progress(20)
    field.noted["statements"] = rounds * len(WORK) * len(TABLES)
    outcome = judge(field.finish("VACUUM FULL, REINDEX, ANALYZE, ALTER"))
    assert outcome.finished_again == 0


@pytest.mark.parametrize("tables", [TABLES, *((table,) for table in TABLES)], ids=["all", *TABLES])
def test_tables_that_are_locked_for_seconds(
    field: Field, cluster: TemporaryCluster, judge: Callable[[Outcome], Outcome], tables: tuple[str, ...], quick: bool
) -> None:
    """Somebody's transaction holds an exclusive lock: all waits, longer than a statement or a lease may last."""
    if quick and tables != TABLES:
        pytest.skip("each by itself in the long form only")
    field.worker("threads")
    field.worker("prefork", 2)
    field.publish()
    with closing(psycopg2.connect(cluster.url(), application_name="hog")) as holder, holder.cursor() as cursor:
        with field.fault():
            cursor.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
            cursor.execute("SELECT pg_sleep(%s)", [5 if quick else 40])
            holder.rollback()
        field.progress(20)
    name = tables[0] if len(tables) == 1 else "all tables"
    outcome = judge(field.finish(f"{name} locked"))
    assert outcome.finished_again == 0
