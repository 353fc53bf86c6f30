"""The server dies, and a standby that streamed its WAL takes over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from environment.temporary import TemporaryCluster
from tests.faults.conftest import reach
from tests.faults.field import RATE, RECOVERY_S, Field, Outcome
from tests.faults.standby import Standby, synchronous, url_of_either

#: What streaming may be behind on a loaded machine, in seconds.
LAG_S = 1.0


@pytest.fixture
def standby(cluster: TemporaryCluster) -> Iterator[Standby]:
    with Standby(cluster) as standby:
        yield standby


@pytest.fixture
def either_field(cluster: TemporaryCluster, standby: Standby) -> Iterator[Field]:
    """A field whose URL names both."""
    with Field(reach(url_of_either(cluster, standby))) as field:
        yield field


@pytest.mark.parametrize("kind", ["synchronous", "asynchronous"])
def test_a_standby_that_takes_over(
    cluster: TemporaryCluster, standby: Standby, either_field: Field, judge: Callable[..., Outcome], kind: str
) -> None:
    """From a synchronous one nothing that was accepted is missing; an asynchronous one may lack what was accepted, or
    done, in the moment before.
    """
    if kind == "synchronous":
        synchronous(cluster)
    field = either_field
    field.worker("threads")
    field.worker("prefork", 2)
    field.publish()
    field.progress(100)
    with field.fault():
        died_ns = time.monotonic_ns()
        cluster.kill()
        standby.promote()
    field.progress(100)
    all_of_them = kind == "synchronous"
    deadline_s = RECOVERY_S if all_of_them else 30
    outcome = field.finish(f"failover to a standby ({kind})", patient=all_of_them, deadline_s=deadline_s)
    judge(outcome, url=standby.url(), may_lose=0 if all_of_them else int(RATE * LAG_S))
    undone = field.published().keys() - field.ends().keys()
    # Processes of the dead server answer until they notice that it is.
    assert [at for n in undone if abs(at := (field.published()[n].at_ns - died_ns) / 1e9) > LAG_S] == []
