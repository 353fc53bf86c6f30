"""PostgreSQL restarts, crashes, throws everybody out, and has no room for anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import psycopg2
import pytest

from environment.temporary import TemporaryCluster
from environment.testkit.databases import rows
from environment.testkit.tables import scalar
from environment.waiting import wait_until
from tests.faults.field import RECOVERY_S, Field, Outcome

Judge = Callable[[Outcome], Outcome]

#: Server processes of clients other than the one that asks, and ``hog``s.
CLIENTS = (
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = current_database()"
    " AND pid <> pg_backend_pid() AND application_name <> 'hog' ORDER BY random()"
)


@pytest.mark.parametrize("how", ["fast", "immediate", "kill -9"])
def test_a_server_that_ends_under_load(
    field: Field, cluster: TemporaryCluster, judge: Judge, how: str, quick: bool
) -> None:
    field.worker("threads")
    field.worker("prefork", 2)
    field.publish()
    starts = {scalar(cluster.url(), "SELECT pg_postmaster_start_time()")}
    for _ in range(2 if quick else 6):
        field.progress(40)
        with field.fault():
            if how == "kill -9":
                cluster.kill()
            else:
                cluster.stop(how)
            cluster.start()
        starts.add(scalar(cluster.url(), "SELECT pg_postmaster_start_time()"))
    field.noted["restarts"] = len(starts) - 1
    field.progress(40)
    names = {"fast": "restarted (`-m fast`)", "immediate": "crashed (`-m immediate`)", "kill -9": "`kill -9`"}
    judge(field.finish(f"PostgreSQL {names[how]}"))
    assert len(starts) > 2


def test_connections_that_are_terminated_at_a_rate(
    field: Field, cluster: TemporaryCluster, judge: Judge, quick: bool
) -> None:
    """One after the other, of workers and of the publisher, whatever it is doing."""
    field.worker("threads")
    field.worker("prefork", 2)
    field.publish()
    terminated = 0
    with field.fault():
        while terminated < (20 if quick else 120):
            field.progress(5)
            ((pid,), *_) = rows(cluster.url(), CLIENTS)
            terminated += scalar(cluster.url(), "SELECT pg_terminate_backend(:pid)::int", pid=pid)
    field.noted["terminated"] = terminated
    judge(field.finish("connections terminated"))


def test_a_server_without_a_free_connection(field: Field, cluster: TemporaryCluster, judge: Judge) -> None:
    """Others take every slot, and whoever had one loses it: nobody can connect, until the others are gone."""
    cluster.options["max_connections"] = "30"
    cluster.restart()
    field.worker("threads")
    field.worker("prefork", 2)
    field.publish()
    refused = field.refused()
    with field.fault(), hogs(cluster) as taken:
        wait_until(lambda: field.logged("the broker cannot be reached") >= 10, RECOVERY_S, "workers to be refused", 0.2)
        wait_until(lambda: field.refused() >= refused + 5, RECOVERY_S, "publishers to be refused", 0.2)
        field.noted["slots taken"] = len(taken)
    judge(field.finish("no free connection"))


@contextmanager
def hogs(cluster: TemporaryCluster) -> Iterator[list[object]]:
    """Connections that take all slots and leave no client another."""
    taken: list[object] = []
    with ExitStack() as stack, closing(psycopg2.connect(cluster.superuser_url)) as master:
        master.autocommit = True

        def fill() -> None:
            try:
                while True:
                    taken.append(stack.enter_context(closing(psycopg2.connect(cluster.url(), application_name="hog"))))
            except psycopg2.OperationalError as error:
                assert "connection slots" in str(error) or "too many clients" in str(error)  # noqa: PT017

        def alone() -> bool:
            fill()
            with master.cursor() as cursor:
                cursor.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE usename = 'app_user' AND application_name <> 'hog'"
                )
                return cursor.fetchone() == (0,)

        wait_until(alone, RECOVERY_S, "every slot to be taken")
        yield taken


def test_a_transaction_that_is_left_open(field: Field, cluster: TemporaryCluster, judge: Judge, quick: bool) -> None:
    """An old snapshot keeps vacuum from removing what is acknowledged: claims walk past it."""
    field.worker("threads")
    field.worker("threads")
    field.publish(rate=40 if quick else 150, seconds=0.0)
    with closing(psycopg2.connect(cluster.url(), application_name="hog")) as idle, idle.cursor() as cursor:
        idle.set_session(isolation_level="REPEATABLE READ")
        with field.fault():
            cursor.execute("SELECT txid_current(), count(*) FROM kombu_message")
            field.accepted(500 if quick else 12_000, 600)
            wait_until(lambda: scalar(cluster.url(), DEAD) >= (500 if quick else 12_000), RECOVERY_S, "dead rows", 0.5)
            field.noted["dead rows"] = scalar(cluster.url(), DEAD)
            idle.rollback()
    outcome = judge(field.finish("idle in transaction"))
    assert outcome.finished_again == 0


DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'kombu_message'"
