"""A limit of the keys of a fair queue while workers die and the server restarts: it holds, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import psycopg2

from environment.temporary import TemporaryCluster
from environment.testkit.databases import run
from environment.testkit.journal_app import QUEUE
from environment.waiting import wait_until
from tests.faults.load import RECOVERY_S, Load, Outcome, busy

Verify = Callable[[Outcome], Outcome]

LIMIT = 3


class Looks:
    """How many messages of a key were claimed, by a connection of its own.

    Attributes:
        count: how often it has looked.
        most: the most that it saw.
    """

    def __init__(self, url: str) -> None:
        self.count = self.most = 0
        self._url = url
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            with suppress(psycopg2.Error), closing(psycopg2.connect(self._url)) as connection:
                connection.autocommit = True
                self._look(connection)

    def _look(self, connection: psycopg2.extensions.connection) -> None:
        with connection.cursor() as cursor:
            while not self._ended.wait(0.002):
                cursor.execute(
                    "SELECT coalesce(max(running), 0) FROM (SELECT count(*) AS running FROM kombu_message"
                    " WHERE NOT visible AND flow_key IS NOT NULL GROUP BY flow_key) AS keys"
                )
                found = cursor.fetchone()
                assert found is not None
                self.count, self.most = self.count + 1, max(self.most, found[0])


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
        victims = [load.worker("threads"), load.worker("prefork", 2)]
        load.worker("solo", 1)
        load.publish(rate=30, seconds=0.05)
        for round_ in range(2 if quick else 12):
            victim = victims[round_ % 2]
            wait_until(lambda victim=victim: busy(victim), RECOVERY_S, "the worker to run a task")
            with load.fault():
                victim.kill()
            victims[round_ % 2] = load.worker(*(("threads", 4) if round_ % 2 == 0 else ("prefork", 2)))
            load.wait_for_tasks(10)
            with load.fault():
                cluster.stop("fast")
                cluster.start()
            load.wait_for_tasks(10)
        load.notes["looks"] = looks.count
        verify(load.finish(f"limit of {LIMIT} in a fair queue: `kill -9` of workers, restarts of the server"))
    assert looks.most == LIMIT, f"{looks.most} in {looks.count} looks"
    assert looks.count > 100
