"""PostgreSQL restarts, crashes, terminates sessions, and has no free connection slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import psycopg2
import pytest

from environment.temporary import TemporaryCluster
from environment.testkit.databases import rows
from environment.testkit.tables import scalar
from environment.waiting import wait_until
from tests.faults.load import RECOVERY_S, Load, Outcome

Verify = Callable[[Outcome], Outcome]

#: Backends of clients, except the one that asks and the ``occupant``s.
CLIENTS = (
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = current_database()"
    " AND pid <> pg_backend_pid() AND application_name <> 'occupant' ORDER BY random()"
)


@pytest.mark.parametrize("how", ["fast", "immediate", "kill -9"])
def test_a_server_that_ends_under_load(
    load: Load, cluster: TemporaryCluster, verify: Verify, how: str, quick: bool
) -> None:
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    starts = {scalar(cluster.url(), "SELECT pg_postmaster_start_time()")}
    for _ in range(2 if quick else 6):
        load.wait_for_tasks(40)
        with load.fault():
            if how == "kill -9":
                cluster.kill()
            else:
                cluster.stop(how)
            cluster.start()
        starts.add(scalar(cluster.url(), "SELECT pg_postmaster_start_time()"))
    load.notes["restarts"] = len(starts) - 1
    load.wait_for_tasks(40)
    names = {"fast": "restarted (`-m fast`)", "immediate": "crashed (`-m immediate`)", "kill -9": "`kill -9`"}
    verify(load.finish(f"PostgreSQL {names[how]}"))
    assert len(starts) > 2


def test_connections_that_are_terminated_at_a_rate(
    load: Load, cluster: TemporaryCluster, verify: Verify, quick: bool
) -> None:
    """One after the other, of workers and of the publisher, in any state."""
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    terminated = 0
    with load.fault():
        while terminated < (20 if quick else 120):
            load.wait_for_tasks(5)
            ((pid,), *_) = rows(cluster.url(), CLIENTS)
            terminated += scalar(cluster.url(), "SELECT pg_terminate_backend(:pid)::int", pid=pid)
    load.notes["terminated"] = terminated
    verify(load.finish("connections terminated"))


def test_a_server_without_a_free_connection(load: Load, cluster: TemporaryCluster, verify: Verify) -> None:
    """Other clients occupy every slot: neither workers nor the publisher can connect until they leave."""
    cluster.options["max_connections"] = "30"
    cluster.restart()
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    refused = load.refusals()
    with load.fault(), occupied_slots(cluster) as taken:
        wait_until(lambda: load.count_logged("Cannot reach the broker") >= 10, RECOVERY_S, "workers to be refused", 0.2)
        wait_until(lambda: load.refusals() >= refused + 5, RECOVERY_S, "publishers to be refused", 0.2)
        load.notes["slots taken"] = len(taken)
    verify(load.finish("no free connection"))


@contextmanager
def occupied_slots(cluster: TemporaryCluster) -> Iterator[list[object]]:
    """Occupy every connection slot, and terminate all other sessions of the role."""
    taken: list[object] = []
    with ExitStack() as stack, closing(psycopg2.connect(cluster.superuser_url)) as master:
        master.autocommit = True

        def fill() -> None:
            try:
                while True:
                    taken.append(
                        stack.enter_context(closing(psycopg2.connect(cluster.url(), application_name="occupant")))
                    )
            except psycopg2.OperationalError as error:
                assert "connection slots" in str(error) or "too many clients" in str(error)  # noqa: PT017

        def alone() -> bool:
            fill()
            with master.cursor() as cursor:
                cursor.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE usename = 'app_user' AND application_name <> 'occupant'"
                )
                # A session that begins has a slot, and is not in pg_stat_activity yet: so the slots are counted.
                cursor.execute(
                    "SELECT current_setting('max_connections')::int"
                    " - current_setting('superuser_reserved_connections')::int"
                )
                (slots,) = cursor.fetchone()
                return len(taken) + 1 == slots  # one is the master's

        wait_until(alone, RECOVERY_S, "every slot to be taken")
        yield taken


def test_a_transaction_that_is_left_open(load: Load, cluster: TemporaryCluster, verify: Verify, quick: bool) -> None:
    """An old snapshot keeps vacuum from removing acknowledged messages: claims skip their dead rows."""
    load.worker("threads")
    load.worker("threads")
    load.publish(rate=40 if quick else 150, seconds=0.0)
    with closing(psycopg2.connect(cluster.url(), application_name="occupant")) as idle, idle.cursor() as cursor:
        idle.set_session(isolation_level="REPEATABLE READ")
        with load.fault():
            cursor.execute("SELECT txid_current(), count(*) FROM kombu_message")
            load.wait_for_accepted(500 if quick else 12_000, 600)
            wait_until(lambda: scalar(cluster.url(), DEAD) >= (500 if quick else 12_000), RECOVERY_S, "dead rows", 0.5)
            load.notes["dead rows"] = scalar(cluster.url(), DEAD)
            idle.rollback()
    outcome = verify(load.finish("idle in transaction"))
    assert outcome.finished_again == 0


DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'kombu_message'"
