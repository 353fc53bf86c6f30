"""Workers are killed, terminated, replaced and frozen."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from environment.testkit.journal_worker import JournalWorker
from environment.waiting import wait_until
from tests.faults.load import RECOVERY_S, Load, Outcome, busy

Verify = Callable[[Outcome], Outcome]

POOLS = {"solo": 1, "threads": 4, "prefork": 2}
#: Of the two tasks that run at a time, one: the worker that fell asleep last is woken first, and would run both.
HALF = 1


@pytest.mark.parametrize("pool", POOLS)
def test_workers_that_are_killed_under_load(load: Load, verify: Verify, pool: str, quick: bool) -> None:
    """``kill -9`` of a worker with all its children; another one replaces it; repeated."""
    load.worker("threads", HALF)
    victims = [load.worker(pool, POOLS[pool])]
    load.publish(rate=20, seconds=0.1)
    for _ in range(2 if quick else 8):
        wait_until(lambda: busy(victims[-1]), RECOVERY_S, "the worker to run a task")
        with load.fault():
            victims[-1].kill()
        victims.append(load.worker(pool, POOLS[pool]))
    load.notes["killed"] = len(victims) - 1
    outcome = verify(load.finish(f"`kill -9` of workers ({pool})"))
    # Only what the killed workers ran or had prefetched.
    assert 0 < outcome.begun_again <= (len(victims) - 1) * POOLS[pool] * 2


def test_workers_that_are_replaced_one_after_the_other(load: Load, verify: Verify, quick: bool) -> None:
    """A rolling deploy: a new worker starts, an old one gets TERM, finishes the tasks that it has begun and releases
    the rest; no task runs twice.
    """
    pools = ("threads", "prefork")
    old = [load.worker(pool, 2) for pool in pools]
    load.publish(rate=50, seconds=0.1)  # five at a time, and the other two workers run four
    rounds = 1 if quick else 4
    for pool in pools * rounds:
        load.worker(pool, 2)
        leaving = old.pop(0)
        old.append(load.workers[-1])
        wait_until(lambda leaving=leaving: busy(leaving), RECOVERY_S, "the worker to run a task")
        with load.fault():
            leaving.process.terminate()
            assert leaving.process.wait(RECOVERY_S) == 0
    load.notes["replaced"] = len(pools) * rounds
    outcome = verify(load.finish("rolling deploy (TERM)"))
    assert outcome.begun_again == 0


def test_workers_that_are_killed_while_they_end(load: Load, verify: Verify, quick: bool) -> None:
    """TERM, then KILL before their tasks have ended, as an impatient supervisor does."""
    rounds = 1 if quick else 4
    load.worker("threads")
    victim = load.worker("threads")
    load.publish(rate=3, seconds=2.0)
    for _ in range(rounds):
        wait_until(lambda victim=victim: busy(victim), RECOVERY_S, "the worker to run a task")
        with load.fault():
            victim.process.terminate()
            wait_until(
                lambda victim=victim: "Warm shutdown" in victim.log_text(), RECOVERY_S, "the worker to end", 0.01
            )
            victim.kill()
        victim = load.worker("threads")
    load.notes["killed"] = rounds
    outcome = verify(load.finish("TERM, and KILL before it has ended"))
    assert 0 < outcome.begun_again <= rounds * POOLS["threads"] * 2


def test_a_worker_that_is_frozen_for_a_moment(load: Load, verify: Verify) -> None:
    """SIGSTOP, shorter than the lease: the worker continues, and no task runs again."""
    frozen = load.worker("threads")
    load.worker("threads", HALF)
    load.publish(rate=6, seconds=0.5)
    wait_until(lambda: busy(frozen), RECOVERY_S, "the worker to run a task")
    with load.fault():
        freeze(frozen, load, 10)
    outcome = verify(load.finish("worker frozen (SIGSTOP), shorter than the lease"))
    assert outcome.begun_again == 0


def test_a_worker_that_is_frozen_for_longer_than_the_lease(load: Load, verify: Verify, quick: bool) -> None:
    """Other workers may run its claims; when it continues, it acknowledges no message that it no longer owns."""
    if quick:
        pytest.skip("without --quick only: a lease of 30 s expires in tests/faults/test_network.py too")
    frozen = load.worker("threads")
    load.worker("threads", HALF)
    load.publish(rate=6, seconds=0.5)
    wait_until(lambda: busy(frozen), RECOVERY_S, "the worker to run a task")
    with load.fault():
        freeze(frozen, load, 45)
    load.notes["taken for dead"] = "yes" if load.count_logged("messages run again") else "no"
    before = frozen.journal.refresh()
    wait_until(lambda: frozen.journal.refresh() > before + 5, RECOVERY_S, "the worker to go on")
    outcome = verify(load.finish("worker frozen (SIGSTOP), longer than the lease"))
    # Its claims: four running tasks and four prefetched ones.
    assert outcome.finished_again <= 8


def freeze(worker: JournalWorker, load: Load, seconds: float) -> None:
    """Send SIGSTOP to a worker and its children; after ``seconds``, in which others run tasks, send SIGCONT."""
    os.killpg(worker.pid, signal.SIGSTOP)
    thaw = time.monotonic() + seconds
    try:
        while time.monotonic() < thaw:
            load.wait_for_tasks(5)
    finally:
        os.killpg(worker.pid, signal.SIGCONT)
