"""A limit of the keys of a fair queue while workers die and the server restarts: it holds, and nothing is lost."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest

from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.session import Session
from environment.temporary import TemporaryCluster
from environment.testkit.databases import rows, run
from environment.testkit.journal_app import QUEUE
from environment.waiting import wait_until
from tests.faults.load import RECOVERY_S, Load, Outcome, find_busy

Verify = Callable[[Outcome], Outcome]

LIMIT = 3
#: More slots than the limit allows, and one worker could run all that it allows.
POOLS = {"solo": 1, "threads": 4, "prefork": 2}


class Looks:
    """How many messages of a key were claimed, by a connection of its own.

    Attributes:
        count: how often it has looked.
        most: the most that it saw.
        most_in_all: the most of all keys together.
    """

    def __init__(self, url: str) -> None:
        self.count = self.most = self.most_in_all = 0
        self._url = url
        self._ended = threading.Event()

    @contextmanager
    def watching(self, threads: int = 1) -> Iterator[None]:
        watchers = [threading.Thread(target=self._watch) for _ in range(threads)]
        for one in watchers:
            one.start()
        try:
            yield
        finally:
            self._ended.set()
            for one in watchers:
                one.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            with suppress(psycopg2.Error), closing(psycopg2.connect(self._url)) as connection:
                connection.autocommit = True
                self._look(connection)

    def _look(self, connection: psycopg2.extensions.connection) -> None:
        with connection.cursor() as cursor:
            while not self._ended.wait(0.002):
                cursor.execute(
                    "SELECT coalesce(max(running), 0), coalesce(sum(running), 0)"
                    " FROM (SELECT count(*) AS running FROM kombu_message"
                    " WHERE NOT visible AND flow_key IS NOT NULL GROUP BY flow_key) AS keys"
                )
                found = cursor.fetchone()
                assert found is not None
                self.count, self.most = self.count + 1, max(self.most, found[0])
                self.most_in_all = max(self.most_in_all, found[1])


def test_a_limit_of_keys_while_workers_die_and_the_server_restarts(
    load: Load, cluster: TemporaryCluster, verify: Verify, quick: bool
) -> None:
    run(
        cluster.url(),
        f"INSERT INTO kombu_queue (name, fair) VALUES ('{QUEUE}', true)",  # noqa: S608
        f"INSERT INTO kombu_limit (queue_id, key, max_running) SELECT id, '*', {LIMIT} FROM kombu_queue",  # noqa: S608
    )
    looks = Looks(cluster.url())
    with looks.watching():
        workers = {pool: load.worker(pool, slots) for pool, slots in POOLS.items()}
        load.publish(rate=30, seconds=0.05)
        for _ in range(2 if quick else 12):
            pool = wait_until(lambda: find_busy(workers), RECOVERY_S, "a worker to run a task")
            with load.fault():
                workers[pool].kill()
            workers[pool] = load.worker(pool, POOLS[pool])
            load.wait_for_tasks(10)
            with load.fault():
                cluster.stop("fast")
                cluster.start()
            load.wait_for_tasks(10)
        load.notes["looks"] = looks.count
        verify(load.finish(f"limit of {LIMIT} in a fair queue: `kill -9` of workers, restarts of the server"))
    assert looks.most == LIMIT, f"{looks.most} in {looks.count} looks"
    assert looks.count > 100


#: Consumers, and keys.
CONSUMERS, KEYS = 8, 200
WHOLE = 150


class Fleet:
    """Consumers in processes of their own, which are killed and begin again."""

    def __init__(self, url: str, queue: int, folder: Path) -> None:
        self._url, self._queue, self.folder = url, queue, folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        arguments = [self._url, str(number), str(self._queue), str(self.folder)]
        self._processes[number] = subprocess.Popen([sys.executable, "-m", "tests.faults.turn_worker", *arguments])

    def kill(self, number: int) -> None:
        """``kill -9``, and what its lease would do after 30 s."""
        self._processes[number].kill()
        self._processes[number].wait()
        with closing(Session(self._url)) as session:
            MessageStore(session).release_all(number, 32000, failed=False)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def starts(self) -> list[float]:
        """When messages were claimed, in their order."""
        lines = (line.split() for one in self.folder.iterdir() for line in one.read_text().splitlines())
        return sorted(float(line[1]) for line in lines if len(line) == 2 and "." in line[1])


@pytest.fixture
def begin_fleet(cluster: TemporaryCluster, tmp_path: Path) -> Iterator[Callable[[int], Fleet]]:
    with ExitStack() as stack:

        def begin(messages: int) -> Fleet:
            url = cluster.url()
            run(url, "INSERT INTO kombu_queue (name, fair) VALUES ('turns', true)")
            fill(url, messages)
            ((queue,),) = rows(url, "SELECT id FROM kombu_queue WHERE name = 'turns'")
            fleet = stack.enter_context(closing(Fleet(url, queue, tmp_path)))
            for number in range(1, CONSUMERS + 1):
                fleet.start(number)
            return fleet

        yield begin


def fill(url: str, messages: int) -> None:
    run(
        url,
        "INSERT INTO kombu_message (queue_id, payload, available_at, flow_key)"  # noqa: S608
        " SELECT queue.id, '{}', now(), hashtextextended((n % "
        f"{KEYS})::text, 0) FROM kombu_queue AS queue, generate_series(1, {messages}) AS n WHERE queue.name = 'turns'",
    )


def test_a_concurrency_of_200_keys_in_eight_processes(
    cluster: TemporaryCluster, begin_fleet: Callable[[int], Fleet], quick: bool
) -> None:
    """100,000 looks: kill -9 of the consumers in turn, and restarts and crashes of the server."""
    url, wanted = cluster.url(), 1_000 if quick else 100_000
    fleet = begin_fleet(2_000)
    run(
        url,
        f"INSERT INTO kombu_limit (queue_id, key, max_running) SELECT id, '*', {LIMIT} FROM kombu_queue",  # noqa: S608
        "INSERT INTO kombu_limit (queue_id, key, flow_key, max_running)"  # noqa: S608
        f" SELECT id, '', 0, {WHOLE} FROM kombu_queue",
    )
    wait_until(lambda: max_running(url) <= LIMIT, RECOVERY_S, "what was claimed before the limit to be done")
    looks, chance = Looks(url), random.Random(1)  # noqa: S311
    waiting = "SELECT count(*) FROM kombu_message WHERE visible"
    with looks.watching(threads=4):
        for round_ in itertools.count():
            seen, done = looks.count, len(fleet.starts())
            if rows(url, waiting)[0][0] < 5_000:
                fill(url, 20_000)
            wait_until(lambda seen=seen: looks.count > seen + 500, RECOVERY_S, "looks")
            wait_until(lambda done=done: len(fleet.starts()) > done, RECOVERY_S, "a claim", interval_s=0.5)
            victim = chance.randint(1, CONSUMERS)
            fleet.kill(victim)
            if round_ % 5 == 4:
                cluster.stop("immediate" if round_ % 10 == 4 else "fast")
                cluster.start()
            fleet.start(victim)
            if looks.count >= wanted and round_ >= 5:
                break
    found = f"{looks.count} looks, at most {looks.most} of a key and {looks.most_in_all} in all"
    sys.stdout.write(f"{found}; {len(fleet.starts())} claims\n")
    assert looks.most == LIMIT
    assert looks.most_in_all <= WHOLE


def max_running(url: str) -> int:
    statement = (
        "SELECT coalesce(max(running), 0)::integer FROM (SELECT count(*) AS running FROM kombu_message"
        " WHERE NOT visible GROUP BY flow_key) AS keys"
    )
    return int(rows(url, statement)[0][0])


def test_a_throttle_of_the_queue_in_eight_processes(
    cluster: TemporaryCluster, begin_fleet: Callable[[int], Fleet], quick: bool
) -> None:
    """100 a minute, for ten minutes; 600 a minute for 20 s with ``--quick``."""
    url, burst = cluster.url(), 5
    per_second, seconds = (10.0, 20) if quick else (100 / 60, 600)
    fleet = begin_fleet(0)
    run(
        url,
        "INSERT INTO kombu_limit (queue_id, key, flow_key, per_second, burst)"  # noqa: S608
        f" SELECT id, '', 0, {per_second}, {burst} FROM kombu_queue",
    )
    fill(url, int(seconds * per_second) * 2)
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, seconds + 10, "the time to be over", interval_s=0.5)
    starts = fleet.starts()
    window = 60.0 if not quick else 5.0
    most = max(sum(at <= other < at + window for other in starts) for at in starts)
    took = starts[-1] - starts[0]
    allowed = burst - 1 + per_second * took
    found = f"{len(starts)} starts in {took:.1f} s, {len(starts) / allowed:.3f} of what is allowed"
    sys.stdout.write(f"{found}; at most {most} in {window:g} s\n")
    # One more: a consumer notes a start some milliseconds after the claim, and the first one may be the latest of all.
    assert most <= per_second * window + burst + 1
    assert len(starts) <= per_second * took + burst + 1
    assert len(starts) >= 0.98 * allowed or quick
