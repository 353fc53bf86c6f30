"""Workers of which one leads while many publish, and what happens to the one that leads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from environment.testkit.deadlines import RESCUE_S
from environment.testkit.probe import DEADLINE_S, POOLS, Probe, ProbeWorker, unique
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until

WORKERS, PUBLISHERS = 3, 3
#: More than a stream sends while a leader is looked for, so that a test that fails ends.
MOST = 5000

LEADER = """
    SELECT max(consumer.pid)
    FROM kombu_subscription AS subscription
    JOIN kombu_consumer AS consumer ON consumer.id = subscription.consumer_id
    JOIN kombu_queue AS queue ON queue.id = subscription.queue_id
    WHERE queue.name = 'celery' AND subscription.slept_at > now() AND subscription.slept_at < now() + interval '50 ms'
"""
WAITING = "SELECT count(*) FROM kombu_message WHERE visible"


class Stream:
    """Several threads that publish one task after the other, each in a commit of its own, until the block ends."""

    def __init__(self, probe: Probe) -> None:
        self._probe, self._name = probe, unique("stream")
        self._ended = threading.Event()
        self.tags: list[str] = []

    def _publish(self, publisher: int) -> list[str]:
        tags: list[str] = []
        while not self._ended.is_set() and len(tags) < MOST:
            tags.append(f"{self._name}-{publisher}-{len(tags)}")
            self._probe.send("run_late_quiet", tags[-1])
        return tags

    @contextmanager
    def flowing(self) -> Iterator[None]:
        with ThreadPoolExecutor(PUBLISHERS) as threads:
            publishers = [threads.submit(self._publish, number) for number in range(PUBLISHERS)]
            try:
                yield
            finally:
                self._ended.set()
            self.tags = [tag for publisher in publishers for tag in publisher.result()]


class Fleet:
    """Workers of one pool; `leader` is one that publishers rely on."""

    def __init__(self, probe: Probe, pool: str) -> None:
        self._probe, self.pool = probe, pool
        for _ in range(WORKERS):
            self.add(ready=False)
        for worker in probe.workers:
            worker.wait_ready()

    def add(self, *, ready: bool = True) -> None:
        self._probe.start(
            pool=self.pool,
            conf={"worker_prefetch_multiplier": 1},
            env={"PROBE_LEASE_S": "5", "PROBE_DENSE_S": "0.04"},
            ready=ready,
        )

    def leader(self) -> ProbeWorker:
        by_pid = {worker.pid: worker for worker in self._probe.workers}
        found: list[ProbeWorker] = []

        def leads() -> bool:
            found.extend(by_pid[pid] for pid in [scalar(self._probe.url, LEADER)] if pid in by_pid)
            return bool(found)

        wait_until(leads, DEADLINE_S, "a worker to lead", 0.001)
        return found[0]

    def nothing_waits(self) -> None:
        wait_until(lambda: scalar(self._probe.url, WAITING) == 0, DEADLINE_S, "the others to take what waits")

    def all_done(self, tags: list[str], *, once: bool = True) -> None:
        counts = self._probe.wait_for_all("end", tags, RESCUE_S)
        wait_until(lambda: rows_of(self._probe.url) == 0, RESCUE_S, "the acks")
        assert not once or {tag: count for tag, count in counts.items() if count != 1} == {}


@pytest.fixture(params=POOLS)
def fleet(probe: Probe, request: pytest.FixtureRequest) -> Fleet:
    return Fleet(probe, request.param)


def test_a_leader_that_is_killed_leaves_nothing_behind(probe: Probe, fleet: Fleet) -> None:
    stream = Stream(probe)
    with stream.flowing():
        fleet.leader().kill()
    fleet.all_done(stream.tags, once=False)


def test_a_leader_that_stands_still_keeps_what_it_has_claimed_and_nothing_else(probe: Probe, fleet: Fleet) -> None:
    """It is stopped for less time than the lease, or for more on a slow machine: then others run it again."""
    stream = Stream(probe)
    with stream.flowing():
        leader = fleet.leader()
        os.kill(leader.pid, signal.SIGSTOP)
    try:
        fleet.nothing_waits()
    finally:
        os.kill(leader.pid, signal.SIGCONT)
    fleet.all_done(stream.tags, once=False)


def test_a_leader_that_is_told_to_stop_leaves_everything_to_the_others(probe: Probe, fleet: Fleet) -> None:
    stream = Stream(probe)
    with stream.flowing():
        leader = fleet.leader()
        leader.process.terminate()
    fleet.all_done(stream.tags)
    assert leader.process.wait(DEADLINE_S) == 0


def test_nothing_waits_for_a_leader_whose_task_lasts(probe: Probe, fleet: Fleet) -> None:
    """As many as it runs at a time: it may take all of them."""
    stream, tag, gate = Stream(probe), unique("lasts"), unique("gate")
    lasting = [f"{tag}-{number}" for number in range(POOLS[fleet.pool])]
    with stream.flowing():
        fleet.leader()
        for one in lasting:
            probe.send("run_late_quiet", one, gate)
    probe.wait_for("start", f"{tag}-*", len(lasting))
    fleet.nothing_waits()
    assert probe.notes("end", f"{tag}-*") == []
    probe.open(gate)
    fleet.all_done([*stream.tags, *lasting])
