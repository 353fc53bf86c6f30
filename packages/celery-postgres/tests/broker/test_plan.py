"""The statements that run all the time read what they need and nothing else, however large the backlog and however
old the statistics.  Counted by PostgreSQL itself, so that no name of a statement or an index matters here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Queue

from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.databases import rows
from environment.testkit.queue_tool import typed
from environment.testkit.stock_rows import payload
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until

BACKLOG = 100_000


def backlog(url: str, queue: str, **columns: str) -> None:
    """A large backlog behind the back of the statistics, which still say that the table is empty."""
    run(url, "ALTER TABLE kombu_message SET (autovacuum_enabled = false)", "ANALYZE kombu_message")
    visible = columns.pop("visible", "true")
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", {value}" for value in columns.values())
    text = payload("backlog", queue).replace("'", "''")
    run(
        url,
        f"INSERT INTO kombu_message (id, visible, payload, version, queue_id{names})"  # noqa: S608
        f" SELECT nextval('message_id_sequence'), {visible}, '{text}', 1, q.id{values}"
        f" FROM kombu_queue AS q, generate_series(1, {BACKLOG}) AS n WHERE q.name = '{queue}'",
    )


class Reads:
    """What the table's scans have read since the last look; every session that counts must have ended."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.before = self._now()

    def _now(self) -> tuple[int, int, int]:
        ((scans, read, fetched),) = rows(
            self.url,
            "SELECT seq_scan, seq_tup_read, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables"
            " WHERE relname = 'kombu_message'",
        )
        ((entries,),) = rows(
            self.url, "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'kombu_message'"
        )
        return int(scans), int(read), int(fetched) + int(entries)

    def since(self) -> dict[str, int]:
        now = self._now()
        return dict(
            zip(("scans", "scanned", "by index"), (b - a for a, b in zip(self.before, now, strict=True)), strict=True)
        )


def settle(url: str) -> None:
    """Wait until nobody else is connected: sessions hand in their counts when they end."""
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    wait_until(lambda: scalar(url, others) == 0, DEADLINE_S, "all sessions to end")


BACKLOGS: dict[str, dict[str, str]] = {
    "ready": {},
    "every priority": {"priority": "n % 10"},
    "far future": {"available_at": "now() + interval '1 year'"},
    "taken by stock": {"visible": "false"},
    "of another queue": {},
}


@pytest.mark.parametrize("kind", BACKLOGS)
def test_a_claim_reads_what_it_takes(database: Any, connect: Callable[..., Client], queue: str, kind: str) -> None:
    url = database.url
    client = connect(url)
    other = f"{queue}-other"
    client.declare(Queue(queue), Queue(other))
    client.close()
    settle(url)
    backlog(url, other if kind == "of another queue" else queue, **BACKLOGS[kind])
    settle(url)
    reads = Reads(url)
    client = connect(url)
    taken = 100
    if kind not in ("ready", "every priority"):
        for number in range(taken):
            client.publish(number, exchange="", routing_key=queue)
    assert len(client.consume(Queue(queue, no_declare=True), prefetch=1).take_acked(taken)) == taken
    client.close()
    settle(url)
    read = reads.since()
    assert read["scanned"] == 0, read
    # Each message is looked at a few times (claimed, deleted, its priority looked for); the backlog is not.
    assert read["by index"] < 300 * taken, read


def test_publishing_reads_nothing_of_the_backlog(database: Any, connect: Callable[..., Client], queue: str) -> None:
    url = database.url
    client = connect(url)
    client.declare(Queue(queue))
    client.close()
    settle(url)
    backlog(url, queue)
    settle(url)
    reads = Reads(url)
    client = connect(url)
    for number in range(100):
        client.publish(number, exchange="", routing_key=queue)
    client.close()
    settle(url)
    read = reads.since()
    assert read["scanned"] == 0, read
    assert read["by index"] < 1000, read


def test_declaring_a_queue_reads_nothing_of_another(database: Any, connect: Callable[..., Client], queue: str) -> None:
    """It counts what is ready, and must find the queue's own messages without walking all others."""
    url = database.url
    client = connect(url)
    client.declare(Queue(queue), Queue(f"{queue}-other"))
    client.close()
    settle(url)
    backlog(url, f"{queue}-other")
    settle(url)
    reads = Reads(url)
    client = connect(url)
    client.publish("x", queue)
    assert client.count(queue) == 1
    client.close()
    settle(url)
    read = reads.since()
    assert read["scanned"] == 0, read
    assert read["by index"] < 1000, read


def test_a_new_publisher_does_not_count_the_backlog(database: Any, connect: Callable[..., Client], queue: str) -> None:
    """Whoever publishes declares, and does not ask how many wait."""
    url = database.url
    client = connect(url)
    client.declare(Queue(queue))
    client.close()
    settle(url)
    backlog(url, queue)
    settle(url)
    reads = Reads(url)
    client = connect(url)
    client.publish("x", queue)
    client.close()
    settle(url)
    read = reads.since()
    assert read["scanned"] == 0, read
    assert read["by index"] < 1000, read


def test_purging_a_queue_reads_nothing_of_another(database: Any, connect: Callable[..., Client], queue: str) -> None:
    url = database.url
    client = connect(url)
    client.declare(Queue(queue), Queue(f"{queue}-other"))
    client.close()
    settle(url)
    backlog(url, f"{queue}-other")
    settle(url)
    reads = Reads(url)
    client = connect(url)
    client.publish("ready", queue)
    due = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    client.publish("timed", queue, headers={"task": "t", "id": "i", "eta": due})
    assert client.channel.queue_purge(queue) == 2
    client.close()
    settle(url)
    read = reads.since()
    assert read["scanned"] == 0, read
    assert read["by index"] < 1000, read


def test_an_idle_consumer_reads_nothing_of_a_backlog_that_is_not_its_own(
    database: Any, connect: Callable[..., Client], queue: str
) -> None:
    url = database.url
    client = connect(url)
    client.declare(Queue(queue), Queue(f"{queue}-other"))
    client.close()
    settle(url)
    backlog(url, f"{queue}-other", available_at="now() + interval '1 year'")
    settle(url)
    reads = Reads(url)
    client = connect(url)
    inbox = client.consume(Queue(queue, no_declare=True))
    # Long enough for sweeps of every kind: the same consumer gets a message that falls due meanwhile.
    due = (datetime.now(UTC) + timedelta(seconds=6)).isoformat()
    client.publish("due", exchange="", routing_key=queue, headers={"task": "t", "id": "i", "eta": due})
    inbox.take_acked()
    client.close()
    settle(url)
    read = reads.since()
    assert read["scanned"] == 0, read
    assert read["by index"] < 5000, read


def test_ending_a_queue_reads_nothing_of_another(database: Any, connect: Callable[..., Client], queue: str) -> None:
    """Each reply to `inspect` has a queue that ends."""
    url = database.url
    client = connect(url)
    client.declare(Queue(queue), Queue(f"{queue}-other"))
    client.publish("x", queue)
    client.close()
    settle(url)
    backlog(url, f"{queue}-other")
    settle(url)
    reads = Reads(url)
    client = connect(url)
    client.channel.queue_delete(queue)
    client.close()
    settle(url)
    read = reads.since()
    assert read["scanned"] == 0, read
    assert read["by index"] < 1000, read
    assert rows_of(url, f"{queue}-other") == BACKLOG


@pytest.mark.parametrize("kind", ["every priority", "far future", "taken by stock"])
def test_the_overview_of_an_operator_counts_in_the_indexes(
    database: Any, connect: Callable[..., Client], queue: str, kind: str
) -> None:
    """Each entry once, and of the table itself the heads of the priorities."""
    url = database.url
    client = connect(url)
    client.declare(Queue(queue))
    client.close()
    settle(url)
    backlog(url, queue, **BACKLOGS[kind])

    def vacuumed() -> bool:  # with an asynchronous commit only once that is on the disk
        run(url, "VACUUM kombu_message")
        return bool(scalar(url, "SELECT relallvisible = relpages FROM pg_class WHERE relname = 'kombu_message'"))

    wait_until(vacuumed, DEADLINE_S, "vacuum to find all visible")
    settle(url)
    reads = Reads(url)
    shown = json.loads(typed(url, "--json", "queues", "--exact").stdout)
    settle(url)
    read = reads.since()
    (row,) = [row for row in shown if row["queue"] == queue]
    column = {"every priority": "ready", "far future": "scheduled", "taken by stock": "taken_by_stock"}[kind]
    assert row[column] == row["ready"] + row["scheduled"] + row["claimed"] + row["taken_by_stock"] == BACKLOG
    assert (row["oldest_s"] is None) == (kind != "every priority")
    assert read["scanned"] == 0, read
    assert BACKLOG <= read["by index"] < BACKLOG + 100, read
