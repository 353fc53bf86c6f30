"""Rows that nobody thought of: refused without a word of the payload, or harmless to everybody else."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from kombu import Exchange, Queue

import celery_postgres
from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.observability import queue_depth
from app.observability.queue_depth import QueueDepthCollector
from celery_postgres import observer
from celery_postgres.consumer.maintenance import Maintenance
from celery_postgres.database.migrations import migrate
from celery_postgres.database.session import Session
from environment.testkit.client import Client, Inbox
from environment.testkit.tables import dead_letters, rows_of, scalar

GREATEST, LEAST = 2**63 - 1, -(2**63)
MESSAGE = (
    "INSERT INTO kombu_message (id, visible, version, queue_id, payload, {})"
    " SELECT nextval('message_id_sequence'), true, 1, (SELECT id FROM kombu_queue WHERE name = 'work'),"
    " '{{\"s3cret\": 1}}', {}"
)
QUEUE = "INSERT INTO kombu_queue (id, name, {}) VALUES (nextval('queue_id_sequence'), 'absurd', {})"
BINDING = "INSERT INTO kombu_binding (exchange, type, routing_key, pattern, queue_id) SELECT 'events', {}, id FROM"
BINDING += " kombu_queue WHERE name = 'work'"
PATTERNS = ("(", "[", "a{5,2}", "*", "\\", "(a{1,255}){1,255}", "((((a*)*)*)*)*$", "^(?=(a+)+)$", "***:x", "a\\1")
#: Of the pieces that `topic.pattern` is made of, and minutes of work for PostgreSQL.
PATTERNS += (
    "^" + "[^.]*" * 180 + "x$",
    "^" + r"([^.]*\.)*[^.]*" * 150 + "x$",
    r"^[^([^.]*\.)*.]*$",
    "^" + "[^.]*a" * 90 + "$",
)
ROWS = {
    **{
        f"{column} {value}": MESSAGE.format(column, value)
        for column, values in {
            "priority": ("-1", "10", "99", "-32768", "32767"),
            "available_at": ("'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "'10000-01-01'"),
            "expires_at": ("'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'"),
            "enqueued_at": ("'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "NULL"),
            "fence": (str(GREATEST), str(LEAST)),
            "failures": ("32767", "-32768"),
            "task_id": ("repeat(md5(random()::text), 100)", "E'\\x1b[2J\\n'"),
        }.items()
        for value in values
    },
    "no queue": "INSERT INTO kombu_message (id, visible, version, payload)"
    " VALUES (nextval('message_id_sequence'), true, 1, '{\"s3cret\": 1}')",
    "neither visible nor not": MESSAGE.format("priority", "0").replace(" true, 1, (", " NULL, 1, ("),
    **{
        f"{column} {value}": QUEUE.format(column, value)
        for column in ("expires_ms", "message_ttl_ms")
        for value in (GREATEST, LEAST, -1, 10**14 + 1)
    },
    "used at infinity": QUEUE.format("expires_ms, used_at", "1000, 'infinity'"),
    "used before time": QUEUE.format("expires_ms, used_at", "1000, '-infinity'"),
    "no name": "INSERT INTO kombu_queue (id, name) VALUES (nextval('queue_id_sequence'), NULL)",
    "an empty name": "INSERT INTO kombu_queue (id, name) VALUES (nextval('queue_id_sequence'), '')",
    **{
        f"the pattern {pattern}": BINDING.format(f"'topic', 'k', '{pattern}'")
        for pattern in PATTERNS
    },
    "another type": BINDING.format("'absurd', '#', NULL"),
}  # fmt: skip


class Steps(celery_postgres.Observer):
    """What the maintenance does."""

    def __init__(self) -> None:
        self.failing: set[str] = set()

    def maintained(self, step: str, well: bool) -> None:
        (self.failing.discard if well else self.failing.add)(step)


@pytest.fixture
def steps() -> Iterator[Steps]:
    watching = Steps()
    celery_postgres.observe(watching)
    yield watching
    observer._observers.remove(watching)


@pytest.fixture(scope="module")
def peopled(module_database: Any) -> str:
    """A database with a queue that is worked on, and an exchange."""
    with closing(Client(module_database.url)) as client:
        client.declare(Queue("work", Exchange("events", "topic"), "a.#"))
    return str(module_database.url)


def insert(url: str, statement: str) -> psycopg2.Error | None:
    """As its owner, whom no right keeps from it; what PostgreSQL says, if it refuses."""
    with closing(psycopg2.connect(PostgresDSN.parse(url).libpq())) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        try:
            cursor.execute(statement)
        except psycopg2.Error as error:
            return error
    return None


def acknowledge(inbox: Inbox, body: str, count: int) -> None:
    """So many of these, and whatever else comes before."""
    inbox.take_until(lambda: sum(message.payload == body for message in inbox.messages) == count)
    while inbox.messages:
        inbox.messages.pop().ack()


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_stops_nobody(
    peopled: str,
    connect: Callable[..., Client],
    steps: Steps,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = insert(peopled, ROWS[kind])
    if refusal is not None:
        assert "s3cret" not in str(refusal), "PostgreSQL's log would have it"
        assert refusal.diag.message_detail is None or "contains" not in refusal.diag.message_detail
    # Publish, to the queue, to the exchange and to a new queue; and take, as a client that connects now.
    client, body = connect(peopled), secrets.token_hex(4)
    client.publish(body, exchange="", routing_key="work")
    client.publish(body, exchange="events", routing_key="a.b")
    client.publish(body, f"new-{body}")
    inbox = client.consume("work")
    acknowledge(inbox, body, 2)
    assert inbox.nothing(), "what an idle consumer does"
    assert "Claiming failed" not in caplog.text
    assert scalar(peopled, "SELECT count(*) FROM kombu_message WHERE priority NOT BETWEEN 0 AND 9") == 0
    # What is read at each scrape.
    monkeypatch.setattr(queue_depth, "get_settings", lambda: Settings(database_url=peopled, _env_file=None))
    ready = {one.name: one for one in QueueDepthCollector().collect()}["celery_queue_ready"]
    assert {sample.labels["queue"]: sample.value for sample in ready.samples}[f"new-{body}"] == 1
    # The maintenance, with something for each step: what a dead consumer held, and what is over.
    insert(peopled, MESSAGE.format("consumer_id", "4711").replace(" true, 1, (", " false, 1, ("))
    insert(peopled, MESSAGE.format("task_id, expires_at", f"'over-{body}', now() - interval '1 s'"))
    with closing(Session(PostgresDSN.parse(peopled).libpq())) as session:
        Maintenance(5).run(session, lambda session: None)
    assert steps.failing == set()
    assert scalar(peopled, "SELECT count(*) FROM kombu_message WHERE consumer_id = 4711") == 0
    assert dead_letters(peopled, f"over-{body}") == 1


def test_one_claim_that_cannot_be_given_back_keeps_no_other(peopled: str, steps: Steps) -> None:
    """A thousand that a dead consumer held, and one of them that the database will not change."""
    insert(peopled, "DELETE FROM kombu_message")
    insert(
        peopled,
        "INSERT INTO kombu_message (id, visible, version, queue_id, payload, consumer_id, task_id)"
        " SELECT nextval('message_id_sequence'), false, 1, 1, '{}', 4712, 'held-' || n FROM generate_series(1, 1500) n",
    )
    insert(
        peopled,
        "ALTER TABLE kombu_message ADD CONSTRAINT unforeseen CHECK (NOT visible OR task_id <> 'held-700') NOT VALID",
    )
    try:
        with closing(Session(PostgresDSN.parse(peopled).libpq())) as session:
            for _ in range(2):
                Maintenance(5).run(session, lambda session: None)
        assert steps.failing == {"rescue of dead consumers"}
        assert scalar(peopled, "SELECT string_agg(task_id, '') FROM kombu_message WHERE NOT visible") == "held-700"
    finally:
        insert(peopled, "ALTER TABLE kombu_message DROP CONSTRAINT unforeseen")
        insert(peopled, "DELETE FROM kombu_message")


def test_a_queue_in_somebodys_transaction_does_not_keep_a_sweep(peopled: str, steps: Steps) -> None:
    """It would wait for as long as it takes the others to find its consumer dead."""
    for name in ("bound", "left"):
        insert(peopled, QUEUE.format("expires_ms, used_at", "1000, '2020-01-01'").replace("absurd", name))
    with closing(psycopg2.connect(PostgresDSN.parse(peopled).libpq())) as somebody, somebody.cursor() as cursor:
        cursor.execute(
            "INSERT INTO kombu_binding (exchange, type, routing_key, queue_id)"
            " SELECT 'slow', 'direct', '', id FROM kombu_queue WHERE name = 'bound'"
        )
        with closing(Session(PostgresDSN.parse(peopled).libpq(), {"statement_timeout": "5s"})) as session:
            Maintenance(5).run(session, lambda session: None)
            assert steps.failing == set()
            names = "SELECT string_agg(name, '') FROM kombu_queue WHERE name IN ('bound', 'left')"
            assert scalar(peopled, names) == "bound"
            somebody.rollback()
            Maintenance(5).run(session, lambda session: None)
            assert scalar(peopled, names) is None


def test_what_is_there_already_is_brought_within_the_limits(database: Any, connect: Callable[..., Client]) -> None:
    """A database from before the limits, with all of these rows."""
    url = database.url
    with closing(Client(url)) as client:
        client.declare(Queue("work", Exchange("events", "topic"), "a.#"))
    migrate(PostgresDSN.parse(url).libpq(), 5)
    for number, statement in enumerate(ROWS.values()):
        insert(url, statement.replace("'absurd'", f"'absurd {number}'").replace("'k'", f"'k{number}'"))
    insert(url, "INSERT INTO kombu_queue (name) VALUES (E'two\\nlines')")
    before = rows_of(url)
    celery_postgres.create_schema(PostgresDSN.parse(url).libpq())
    assert rows_of(url) == before
    assert scalar(url, "SELECT count(*) FROM kombu_message WHERE priority NOT BETWEEN 0 AND 9") == 0
    assert scalar(url, "SELECT count(*) FROM kombu_queue WHERE name LIKE 'two?lines#%'") == 1
    assert insert(url, "UPDATE kombu_message SET failures = 0") is None, "every row can be claimed"
    client = connect(url)
    client.publish("x", exchange="events", routing_key="a.b")
    acknowledge(client.consume("work"), "x", 1)
