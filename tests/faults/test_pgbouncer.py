"""A transaction pooler in front of the database, restarted under load."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from celery_postgres.database.notification_probe import hears
from celery_postgres.database.session import Session
from celery_postgres.errors import UnsupportedServerError
from environment.temporary import TemporaryCluster
from environment.testkit.pgbouncer import PgBouncer
from tests.faults.conftest import broker_variables
from tests.faults.load import Load, Outcome

Verify = Callable[[Outcome], Outcome]


@pytest.fixture
def pgbouncer(cluster: TemporaryCluster, program: Callable[[str], str]) -> Iterator[PgBouncer]:
    with PgBouncer(program("pgbouncer"), cluster) as pgbouncer:
        yield pgbouncer


@pytest.fixture
def pooled_load(pgbouncer: PgBouncer) -> Iterator[Load]:
    with Load(broker_variables(pgbouncer.url)) as load:
        yield load


def test_a_pooler_that_restarts_under_load(
    pooled_load: Load, pgbouncer: PgBouncer, verify: Verify, quick: bool
) -> None:
    load = pooled_load
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    ends = [signal.SIGTERM, signal.SIGKILL] * (1 if quick else 4)
    for number in ends:
        load.wait_for_tasks(40)
        with load.fault():
            pgbouncer.end(number)
            pgbouncer.start()
    load.notes["restarts"] = len(ends)
    load.wait_for_tasks(40)
    assert load.count_logged("transaction pooler stands before the database") >= 2
    verify(load.finish("PgBouncer (transaction mode) restarted"))


def test_a_pooler_that_changes_its_mode_under_load(
    cluster: TemporaryCluster, program: Callable[[str], str], verify: Verify
) -> None:
    with (
        PgBouncer(program("pgbouncer"), cluster, mode="session", settings="default_pool_size = 40") as pgbouncer,
        Load(broker_variables(pgbouncer.url)) as load,
    ):
        load.worker("threads")
        load.worker("prefork", 2)
        load.publish()
        for mode in ("transaction", "session", "transaction"):
            load.wait_for_tasks(40)
            with load.fault():
                pgbouncer.change_mode(mode)
        load.wait_for_tasks(40)
        verify(load.finish("PgBouncer reloaded with another `pool_mode`"))


def test_a_worker_that_is_killed_behind_a_pooler(pooled_load: Load, verify: Verify, quick: bool) -> None:
    """Without a session lock nothing shows that the worker is gone: its tasks wait until the lease expires."""
    if quick:
        pytest.skip("without --quick only: a lease of 30 s expires in tests/faults/test_network.py too")
    victim = pooled_load.worker("threads")
    pooled_load.worker("threads")
    pooled_load.publish(rate=6, seconds=1.0)
    with pooled_load.fault():
        victim.kill()
    outcome = verify(pooled_load.finish("`kill -9` of a worker behind PgBouncer"))
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


def test_a_pool_of_one_session_in_transaction_mode(cluster: TemporaryCluster, program: Callable[[str], str]) -> None:
    """What the second client sends arrives at the only session, which is lent to the second client then."""
    with (
        PgBouncer(program("pgbouncer"), cluster, settings="default_pool_size = 1") as pgbouncer,
        closing(Session(pgbouncer.url)) as session,
    ):
        assert not hears(session, pgbouncer.url, lambda: Session(pgbouncer.url))


def test_a_pool_of_one_session_in_session_mode_is_too_small(
    cluster: TemporaryCluster, program: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    settings = "default_pool_size = 1\nquery_wait_timeout = 1"
    with (
        PgBouncer(program("pgbouncer"), cluster, mode="session", settings=settings) as pgbouncer,
        closing(Session(pgbouncer.url)) as session,
    ):
        assert not hears(session, pgbouncer.url, lambda: Session(pgbouncer.url))
    assert "its pool is too small for a worker: " in caplog.text


def test_statement_mode_is_refused(cluster: TemporaryCluster, program: Callable[[str], str]) -> None:
    with (
        PgBouncer(program("pgbouncer"), cluster, mode="statement") as pgbouncer,
        pytest.raises(UnsupportedServerError, match="as in statement mode: set its mode"),
    ):
        Session(pgbouncer.url)
