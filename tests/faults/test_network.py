"""The link between a worker's host and the server's is cut: nothing is closed, nothing arrives, TCP only waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest

from benchmarks.worker import Worker
from environment.temporary import TemporaryCluster
from environment.waiting import wait_until
from tests.faults.conftest import reach
from tests.faults.field import RECOVERY_S, Field, Outcome, busy
from tests.faults.hosts import Host

Judge = Callable[[Outcome], Outcome]

NOTICED = "the broker cannot be reached"
TAKEN_OVER = "of its messages run again"


@pytest.fixture
def host(cluster: TemporaryCluster, program: Callable[[str], str], root: None) -> Iterator[Host]:
    with Host(program("ip")) as host:
        host.admit(cluster)
        yield host


@pytest.fixture
def far(host: Host, field: Field, cluster: TemporaryCluster) -> Worker:
    """A worker on that host; the publisher is on the server's."""
    worker = field.worker("threads", before=host.before, variables=reach(host.url(cluster)))
    field.publish(rate=3, seconds=1.0)
    return worker


def test_a_link_that_is_cut_until_the_worker_notices(host: Host, field: Field, far: Worker, judge: Judge) -> None:
    """Shorter than the lease: the worker goes on with what it holds, and nothing runs again."""
    with field.fault():
        host.cut()
        since(field, "worker notices", lambda: NOTICED in far.log_text())
        host.heal()
    outcome = judge(field.finish("link cut, shorter than the lease"))
    assert outcome.finished_again == 0


def test_a_link_that_is_cut_for_longer_than_the_lease(
    host: Host, field: Field, far: Worker, cluster: TemporaryCluster, judge: Judge
) -> None:
    """A worker on the server's side takes over what the other one holds, which begins anew when it is back. The server
    forgets the sessions of the host that is gone: they would keep its slots for two hours."""
    near = field.worker("threads")
    wait_until(lambda: busy(far), RECOVERY_S, "the worker to run a task")
    with field.fault():
        host.cut()
        cut = time.monotonic()
        since(field, "others take over", lambda: TAKEN_OVER in near.log_text())
        since(field, "server forgets the host", lambda: not sessions(cluster, host.address), begin=cut)
        host.heal()
    before = count(far)
    since(field, "worker runs tasks again", lambda: count(far) > before + 5)
    outcome = judge(field.finish("link cut, longer than the lease"))
    # What it held: four that ran, as many reserved, and acknowledgements that were under way.
    assert 0 < outcome.finished_again <= 12


def since(field: Field, what: str, happened: Callable[[], bool], begin: float | None = None) -> None:
    """Wait for something, and note after how long it came, from now or from ``begin``."""
    begin = time.monotonic() if begin is None else begin
    wait_until(happened, RECOVERY_S, what)
    field.noted[what] = f"after {time.monotonic() - begin:.1f} s"


def sessions(cluster: TemporaryCluster, address: str) -> int:
    """How many the server believes to have with a host."""
    with closing(psycopg2.connect(cluster.superuser_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE client_addr = %s", [address])
        return int(cursor.fetchone()[0])


def count(worker: Worker) -> int:
    """How many tasks it has begun and ended."""
    return worker.journal.refresh()
