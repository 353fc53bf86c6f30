"""A transaction pooler stands between, and restarts under load."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from celery_postgres.database.notification_probe import hears
from celery_postgres.database.session import Session
from environment.temporary import TemporaryCluster
from tests.faults.conftest import reach
from tests.faults.field import Field, Outcome
from tests.faults.pgbouncer import PgBouncer

Judge = Callable[[Outcome], Outcome]


@pytest.fixture
def pgbouncer(cluster: TemporaryCluster, program: Callable[[str], str]) -> Iterator[PgBouncer]:
    with PgBouncer(program("pgbouncer"), cluster) as pgbouncer:
        yield pgbouncer


@pytest.fixture
def pooled_field(pgbouncer: PgBouncer) -> Iterator[Field]:
    with Field(reach(pgbouncer.url)) as field:
        yield field


def test_a_pooler_that_restarts_under_load(
    pooled_field: Field, pgbouncer: PgBouncer, judge: Judge, quick: bool
) -> None:
    field = pooled_field
    field.worker("threads")
    field.worker("prefork", 2)
    field.publish()
    ends = [signal.SIGTERM, signal.SIGKILL] * (1 if quick else 4)
    for number in ends:
        field.progress(40)
        with field.fault():
            pgbouncer.end(number)
            pgbouncer.start()
    field.noted["restarts"] = len(ends)
    field.progress(40)
    assert field.logged("a transaction pooler stands before the database") >= 2
    judge(field.finish("PgBouncer (transaction mode) restarted"))


def test_a_worker_that_is_killed_behind_a_pooler(pooled_field: Field, judge: Judge, quick: bool) -> None:
    """No lock says that it is gone: its tasks wait for the lease."""
    if quick:
        pytest.skip("a lease of 30 s runs out in tests/faults/test_network.py too: the long form only")
    victim = pooled_field.worker("threads")
    pooled_field.worker("threads")
    pooled_field.publish(rate=6, seconds=1.0)
    with pooled_field.fault():
        victim.kill()
    outcome = judge(pooled_field.finish("`kill -9` of a worker behind PgBouncer"))
    assert 0 < outcome.begun_again <= 8


@pytest.mark.parametrize("settings", ["", "server_reset_query =", "server_round_robin = 1"])
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_is_known_by_what_it_does(
    cluster: TemporaryCluster, program: Callable[[str], str], mode: str, settings: str
) -> None:
    with PgBouncer(program("pgbouncer"), cluster, mode=mode, settings=settings) as pgbouncer:
        for _ in range(3):
            with closing(Session(pgbouncer.url)) as session:
                assert session.pooled
                assert hears(session, pgbouncer.url, lambda: Session(pgbouncer.url)) == (mode == "session")
                assert session.run("find_queue", queue="none") == []
