"""Workers are killed, again and again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from environment.waiting import wait_until
from tests.faults.field import RECOVERY_S, Field, Outcome, busy

POOLS = {"solo": 1, "threads": 4, "prefork": 2}


@pytest.mark.parametrize("pool", POOLS)
def test_workers_that_are_killed_under_load(
    field: Field, judge: Callable[[Outcome], Outcome], pool: str, quick: bool
) -> None:
    """``kill -9`` of a worker with all its children, another one in its place, and again."""
    field.worker("threads")
    victims = [field.worker(pool, POOLS[pool])]
    field.publish(rate=20, seconds=0.1)
    for _ in range(2 if quick else 8):
        wait_until(lambda: busy(victims[-1]), RECOVERY_S, "the worker to run a task")
        with field.fault():
            victims[-1].kill()
        victims.append(field.worker(pool, POOLS[pool]))
    field.noted["killed"] = len(victims) - 1
    outcome = judge(field.finish(f"`kill -9` of workers ({pool})"))
    # What was in the hands of the dead, run or reserved, and nothing else.
    assert 0 < outcome.begun_again <= (len(victims) - 1) * POOLS[pool] * 2
