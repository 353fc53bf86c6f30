"""Workers are killed, told to end, replaced and frozen."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from benchmarks.worker import Worker
from environment.waiting import wait_until
from tests.faults.field import RECOVERY_S, Field, Outcome, busy

Judge = Callable[[Outcome], Outcome]

POOLS = {"solo": 1, "threads": 4, "prefork": 2}


@pytest.mark.parametrize("pool", POOLS)
def test_workers_that_are_killed_under_load(field: Field, judge: Judge, pool: str, quick: bool) -> None:
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


def test_workers_that_are_replaced_one_after_the_other(field: Field, judge: Judge, quick: bool) -> None:
    """A rolling deploy: a new one begins, an old one is told to end (TERM), finishes what it has begun, and gives back
    the rest; nothing runs twice.
    """
    pools = ("threads", "prefork")
    old = [field.worker(pool, 2) for pool in pools]
    field.publish(rate=20, seconds=0.1)
    rounds = 1 if quick else 4
    for pool in pools * rounds:
        field.worker(pool, 2)
        leaving = old.pop(0)
        old.append(field.workers[-1])
        wait_until(lambda leaving=leaving: busy(leaving), RECOVERY_S, "the worker to run a task")
        with field.fault():
            leaving.process.terminate()
            assert leaving.process.wait(RECOVERY_S) == 0
    field.noted["replaced"] = len(pools) * rounds
    outcome = judge(field.finish("rolling deploy (TERM)"))
    assert outcome.begun_again == 0


def test_workers_that_are_killed_while_they_end(field: Field, judge: Judge, quick: bool) -> None:
    """TERM, and KILL before their tasks have ended, as a supervisor does whose patience is short."""
    rounds = 1 if quick else 4
    field.worker("threads")
    victim = field.worker("threads")
    field.publish(rate=3, seconds=2.0)
    for _ in range(rounds):
        wait_until(lambda victim=victim: busy(victim), RECOVERY_S, "the worker to run a task")
        with field.fault():
            victim.process.terminate()
            wait_until(
                lambda victim=victim: "Warm shutdown" in victim.log_text(), RECOVERY_S, "the worker to end", 0.01
            )
            victim.kill()
        victim = field.worker("threads")
    field.noted["killed"] = rounds
    outcome = judge(field.finish("TERM, and KILL before it has ended"))
    assert 0 < outcome.begun_again <= rounds * POOLS["threads"] * 2


def test_a_worker_that_is_frozen_for_a_moment(field: Field, judge: Judge) -> None:
    """SIGSTOP, shorter than the lease: it goes on where it was, and nothing runs again."""
    frozen = field.worker("threads")
    field.worker("threads")
    field.publish(rate=6, seconds=0.5)
    wait_until(lambda: busy(frozen), RECOVERY_S, "the worker to run a task")
    with field.fault():
        freeze(frozen, field, 10)
    outcome = judge(field.finish("worker frozen (SIGSTOP), shorter than the lease"))
    assert outcome.begun_again == 0


def test_a_worker_that_is_frozen_for_longer_than_the_lease(field: Field, judge: Judge, quick: bool) -> None:
    """Others may run what it holds; when it goes on, it acknowledges nothing that is not its own any more."""
    if quick:
        pytest.skip("a lease of 30 s runs out in tests/faults/test_network.py too: the long form only")
    frozen = field.worker("threads")
    field.worker("threads")
    field.publish(rate=6, seconds=0.5)
    wait_until(lambda: busy(frozen), RECOVERY_S, "the worker to run a task")
    with field.fault():
        freeze(frozen, field, 45)
    field.noted["taken for dead"] = "yes" if field.logged("of its messages run again") else "no"
    before = frozen.journal.refresh()
    wait_until(lambda: frozen.journal.refresh() > before + 5, RECOVERY_S, "the worker to go on")
    outcome = judge(field.finish("worker frozen (SIGSTOP), longer than the lease"))
    # What it held: four that ran, as many reserved.
    assert outcome.finished_again <= 8


def freeze(worker: Worker, field: Field, seconds: float) -> None:
    """SIGSTOP of a worker with its children for some time, in which others go on; then SIGCONT."""
    os.killpg(worker.pid, signal.SIGSTOP)
    thaw = time.monotonic() + seconds
    try:
        while time.monotonic() < thaw:
            field.progress(5)
    finally:
        os.killpg(worker.pid, signal.SIGCONT)
