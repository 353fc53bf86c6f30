"""The database goes back in time under living workers: a dump is restored, while they hold what came after it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import celery_postgres
from app.core.dsn import PostgresDSN
from environment.cluster import APP_DATABASE, APP_ROLE
from environment.temporary import TemporaryCluster
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.databases import rows
from environment.testkit.deadlines import RESCUE_S, SWEPT_S
from environment.testkit.probe import Probe, unique
from environment.testkit.tables import dead_letters, rows_of, run, scalar
from environment.waiting import wait_until


class Backups:
    """Dumps of a private server's database."""

    def __init__(self, cluster: TemporaryCluster) -> None:
        self._cluster = cluster
        self._file = cluster.home / "dump"

    def take(self) -> None:
        self._call("pg_dump", "--format=custom", "--file", self._file, APP_DATABASE)

    def restore(self) -> None:
        """Into a new database of the same name, as an operator would who has lost the old one."""
        url = self._cluster.superuser_url
        run(url, f"DROP DATABASE {APP_DATABASE} WITH (FORCE)")
        run(url, f"CREATE DATABASE {APP_DATABASE} OWNER {APP_ROLE}")
        self._call("pg_restore", "--dbname", APP_DATABASE, "--role", APP_ROLE, "--no-owner", self._file)

    def _call(self, program: str, *words: str | Path) -> None:
        cluster = self._cluster
        where = ["--host", cluster.sockets, "--port", str(cluster.port), "--username", "postgres"]
        done = cluster.account.run([cluster.installation.program(program), *where, *words])
        assert done.returncode == 0, done.stdout


@pytest.fixture
def backups(private_cluster: TemporaryCluster) -> Backups:
    if not os.access(private_cluster.installation.program("pg_restore"), os.X_OK):
        pytest.skip("this PostgreSQL comes without pg_dump and pg_restore")
    celery_postgres.create_schema(PostgresDSN.parse(private_cluster.url()).libpq())
    return Backups(private_cluster)


@pytest.mark.long
def test_a_dump_is_restored_under_four_workers(
    private_cluster: TemporaryCluster, backups: Backups, make_probe: Callable[..., Probe]
) -> None:
    """Ids come again. The late acknowledgement of a task from before must not delete a new message, workers that
    registered after the dump must not share an id, and what is claimed by nobody's memory is run again."""
    url = private_cluster.url()
    probe = make_probe(url)
    before, after, gate = unique("before"), unique("after"), unique("gate")
    for _ in range(2):
        probe.start(pool="threads", concurrency=4, conf={"worker_prefetch_multiplier": 1})
    held = [f"{before}-{number}" for number in range(4)]
    for tag in held:
        probe.send("run_late", tag, gate)
    probe.wait_for_all("start", held)
    # Of what runs, the dump has the claims; what waits in it runs now, and once more when it is restored.
    waiting = [f"{before}-{number}" for number in range(4, 8)]
    for tag in waiting:
        probe.send("run_late", tag, countdown=3)
    backups.take()
    for _ in range(2):
        probe.start(pool="threads", concurrency=4, conf={"worker_prefetch_multiplier": 1})
    probe.wait_for_all("end", waiting)
    old = [f"{after}-old-{number}" for number in range(4)]
    for tag in old:
        probe.send("run_late", tag, gate)
    probe.wait_for_all("start", old)
    known = claimed(url)

    backups.restore()
    new = {f"{after}-new-{number}": f"{gate}-{number}" for number in range(4)}
    for tag, own_gate in new.items():
        probe.send("run_late", tag, own_gate, retry=True)
    probe.wait_for_all("start", list(new), SWEPT_S)
    repeated = known.keys() & claimed(url).keys()
    assert len(repeated) >= 4  # the ids of what was lost, of new messages now

    probe.open(gate)
    probe.wait_for_all("end", [*held, *old])
    pid = scalar(
        url,
        "SELECT c.pid FROM kombu_consumer AS c JOIN kombu_message AS m ON m.consumer_id = c.id"
        " GROUP BY c.id, c.pid ORDER BY count(*) DESC, c.id LIMIT 1",
    )
    next(worker for worker in probe.workers if worker.pid == pid).kill()
    for own_gate in new.values():
        probe.open(own_gate)
    probe.wait_for_all("end", list(new), SWEPT_S)
    wait_until(lambda: rows_of(url) == 0, SWEPT_S, "every message to be acknowledged")
    assert dead_letters(url) == 0
    again = Counter(note["tag"] for note in probe.notes("end"))
    assert {again[tag] for tag in waiting} == {2}
    living = sorted(worker.pid for worker in probe.workers if worker.pid != pid)
    consumers = "SELECT pid FROM kombu_consumer ORDER BY pid"
    wait_until(lambda: [one for (one,) in rows(url, consumers)] == living, SWEPT_S, "each worker to have its own id")


def claimed(url: str) -> dict[int, int]:
    """Messages in somebody's hands, and the fences."""
    return dict(rows(url, "SELECT id, fence FROM kombu_message WHERE NOT visible"))


# -- in one process, with a time machine


def test_what_comes_back_as_claimed_by_us_is_given_back(module_database: Any, client: Client, queue: str) -> None:
    """The database says that we hold what we have acknowledged since."""
    url = module_database.url
    client.publish("first", queue)
    inbox = client.consume(queue)
    (message,) = inbox.take()
    heartbeat = inbox.channel.buffer.heartbeat  # type: ignore[attr-defined]
    run(url, "DROP TABLE IF EXISTS earlier", "CREATE TABLE earlier AS SELECT * FROM kombu_message")
    wait_until(lambda: heartbeat.member.counter > 3, DEADLINE_S, "some beats")
    message.ack()
    wait_until(lambda: rows_of(url, queue) == 0, DEADLINE_S, "the acknowledgement")
    client.publish("second", queue)
    (second,) = inbox.take()

    run(
        url,
        "INSERT INTO kombu_message SELECT * FROM earlier",
        "UPDATE kombu_message SET claimed_at = now() - interval '1 hour' WHERE id IN (SELECT id FROM earlier)",
        "UPDATE kombu_consumer SET beat = beat - 2",
    )
    (again,) = inbox.take(1, SWEPT_S)

    assert again.payload == "first"
    assert again.delivery_info["redelivered"] is True
    again.ack()
    second.ack()
    wait_until(lambda: rows_of(url, queue) == 0, RESCUE_S, "both acknowledgements")


def test_a_late_ack_leaves_a_new_message_with_an_old_id(module_database: Any, client: Client, queue: str) -> None:
    url = module_database.url
    client.publish("old", queue)
    (old,) = client.consume(queue).take()
    identity = scalar(url, "SELECT max(id) FROM kombu_message")
    run(url, f"DELETE FROM kombu_message WHERE id = {identity}")  # noqa: S608
    run(url, f"SELECT setval('message_id_sequence', {identity}, false)")
    client.publish("new", queue)
    (new,) = client.consume(queue).take()
    assert new.delivery_tag.split(".")[0] == old.delivery_tag.split(".")[0] == str(identity)
    old.ack()
    client.publish("next", queue)
    (following,) = client.consume(queue).take()
    following.ack()
    left = [(identity,)]
    wait_until(
        lambda: rows(url, f"SELECT id FROM kombu_message WHERE id >= {identity}") in (left, []),  # noqa: S608
        DEADLINE_S,
        "the acknowledgements",
    )
    assert rows(url, f"SELECT id FROM kombu_message WHERE id >= {identity}") == left  # noqa: S608
    new.ack()
    wait_until(lambda: rows_of(url, queue) == 0, DEADLINE_S, "the acknowledgement")


def test_whose_queue_is_another_one_now_connects_anew(module_database: Any, client: Client, queue: str) -> None:
    url = module_database.url
    inbox = client.consume(queue)
    heartbeat = inbox.channel.buffer.heartbeat  # type: ignore[attr-defined]
    wait_until(lambda: heartbeat.member.counter > 2, DEADLINE_S, "some beats")
    run(
        url,
        f"UPDATE kombu_queue SET name = '{queue}-other' WHERE name = '{queue}'",  # noqa: S608
        "UPDATE kombu_consumer SET beat = beat - 2",
    )
    with pytest.raises(client.connection.connection_errors, match="no longer knows the queues"):
        inbox.take(1, SWEPT_S)
