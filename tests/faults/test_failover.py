"""The server is killed, and a standby that streamed its WAL is promoted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from environment.temporary import TemporaryCluster
from environment.testkit.standby import Standby, synchronous, url_of_either
from tests.faults.conftest import broker_variables
from tests.faults.load import RATE, RECOVERY_S, Load, Outcome

#: Replication lag on a loaded machine, in seconds at most.
LAG_S = 1.0


@pytest.fixture
def standby(cluster: TemporaryCluster) -> Iterator[Standby]:
    with Standby(cluster) as standby:
        yield standby


@pytest.fixture
def failover_load(cluster: TemporaryCluster, standby: Standby) -> Iterator[Load]:
    """A load whose URL names both servers."""
    with Load(broker_variables(url_of_either(cluster, standby))) as load:
        yield load


@pytest.mark.parametrize("kind", ["synchronous", "asynchronous"])
def test_a_standby_that_takes_over(
    cluster: TemporaryCluster, standby: Standby, failover_load: Load, verify: Callable[..., Outcome], kind: str
) -> None:
    """A synchronous standby lacks no accepted task; an asynchronous one may lack tasks that were accepted or done in
    the last moment.
    """
    if kind == "synchronous":
        synchronous(cluster)
    load = failover_load
    load.worker("threads")
    load.worker("prefork", 2)
    load.publish()
    load.wait_for_tasks(100)
    with load.fault():
        died_ns = time.monotonic_ns()
        cluster.kill()
        standby.promote()
    load.wait_for_tasks(100)
    all_of_them = kind == "synchronous"
    deadline_s = RECOVERY_S if all_of_them else 30
    outcome = load.finish(f"failover to a standby ({kind})", patient=all_of_them, deadline_s=deadline_s)
    verify(outcome, url=standby.url(), may_lose=0 if all_of_them else int(RATE * LAG_S))
    undone = load.published().keys() - load.ends().keys()
    # Backends of the killed server answer until they notice that the postmaster is gone.
    assert [at for n in undone if abs(at := (load.published()[n].at_ns - died_ns) / 1e9) > LAG_S] == []
