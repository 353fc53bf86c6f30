"""The link between the hosts of a worker and of the server is cut: no connection closes, no packet arrives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest

from environment.temporary import TemporaryCluster
from environment.testkit.journal_worker import JournalWorker
from environment.testkit.second_host import SecondHost
from environment.waiting import wait_until
from tests.faults.conftest import broker_variables
from tests.faults.load import RECOVERY_S, Load, Outcome, busy

Verify = Callable[[Outcome], Outcome]

NOTICED = "Cannot reach the broker"
TAKEN_OVER = "messages run again"


@pytest.fixture
def host(cluster: TemporaryCluster, program: Callable[[str], str], root: None) -> Iterator[SecondHost]:
    with SecondHost(program("ip")) as host:
        host.admit(cluster)
        yield host


@pytest.fixture
def far(host: SecondHost, load: Load, cluster: TemporaryCluster) -> JournalWorker:
    """A worker on the second host; the publisher is on the server's."""
    worker = load.worker("threads", before=host.before, variables=broker_variables(host.url(cluster)))
    load.publish(rate=3, seconds=1.0)
    return worker


def test_a_link_that_is_cut_until_the_worker_notices(
    host: SecondHost, load: Load, far: JournalWorker, verify: Verify
) -> None:
    """Shorter than the lease: the worker keeps its claims, and no task runs again."""
    with load.fault():
        host.cut()
        since(load, "worker notices", lambda: NOTICED in far.log_text())
        host.heal()
    outcome = verify(load.finish("link cut, shorter than the lease"))
    assert outcome.finished_again == 0


def test_a_link_that_is_cut_for_longer_than_the_lease(
    host: SecondHost, load: Load, far: JournalWorker, cluster: TemporaryCluster, verify: Verify
) -> None:
    """A worker on the server's side takes over the claims of the far one, which starts afresh once the link is back.
    The server closes the sessions of the unreachable host, which would occupy connection slots for two hours."""
    near = load.worker("threads", 2)  # three tasks run at a time, so the far one has to run one of them
    wait_until(lambda: busy(far), RECOVERY_S, "the worker to run a task")
    with load.fault():
        host.cut()
        cut = time.monotonic()
        since(load, "others take over", lambda: TAKEN_OVER in near.log_text())
        since(load, "server forgets the host", lambda: not sessions(cluster, host.address), begin=cut)
        host.heal()
    before = count(far)
    since(load, "worker runs tasks again", lambda: count(far) > before + 5)
    outcome = verify(load.finish("link cut, longer than the lease"))
    # Its claims: four running tasks, four prefetched ones, and acknowledgements under way.
    assert 0 < outcome.finished_again <= 12


def since(load: Load, what: str, happened: Callable[[], bool], begin: float | None = None) -> None:
    """Wait until something happens, and note after how many seconds it did, from now or from ``begin``."""
    begin = time.monotonic() if begin is None else begin
    wait_until(happened, RECOVERY_S, what)
    load.notes[what] = f"after {time.monotonic() - begin:.1f} s"


def sessions(cluster: TemporaryCluster, address: str) -> int:
    """Return how many sessions of a host the server has."""
    with closing(psycopg2.connect(cluster.superuser_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE client_addr = %s", [address])
        return int(cursor.fetchone()[0])


def count(worker: JournalWorker) -> int:
    """Return how many records the worker has written."""
    return worker.journal.refresh()
