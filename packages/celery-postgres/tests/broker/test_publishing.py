"""How a message gets into its table, and who is woken for it."""

from __future__ import annotations

import io
import json
import select
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any
from uuid import uuid4

import psycopg2.extensions
import pytest

from celery_postgres.consumer.polling import PollingBackoff
from celery_postgres.database import slow_commits
from celery_postgres.database.binary_row import COPIED_AT_ONCE, binary_row
from celery_postgres.database.chord_store import ChordStore
from celery_postgres.database.envelope import Envelope, parameters
from celery_postgres.database.pool import Sessions
from celery_postgres.database.publish_store import PublishStore
from celery_postgres.database.session import Session
from celery_postgres.database.unique import UNTIL, Unique
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.tables import rows, run
from environment.waiting import wait_until

#: Every kind of character that a literal or a row of COPY could stumble over, in more bytes than one message has.
LONG = "quote ' \" backslash \\ \\n \\. tab \t line \n null \\N é 漢 🐘 %s %(x)s " * (COPIED_AT_ONCE // 50)

COLUMNS = """
    SELECT message.priority, message.task_id, message.tenant_id::text, message.available_at, message.visible,
        message.failures, message.version, message.enqueued_at > now() - interval '1 minute',
        date_trunc('minute', message.expires_at - message.enqueued_at)
    FROM kombu_message AS message JOIN kombu_queue AS queue ON queue.id = message.queue_id
    WHERE queue.name = :queue ORDER BY message.id
"""


@pytest.fixture
def session(module_database: Any) -> Iterator[Session]:
    made = Session(module_database.url)
    yield made
    made.close()


def of(
    payload: str = "{}", eta: datetime | None = None, durable: str = "yes", unique: Unique | None = None
) -> Envelope:
    return Envelope(payload, 0, None, None, eta, None, durable, unique=unique)


def envelope(*given: Any, **different: Any) -> dict[str, Any]:
    """The parameters of a publish, without its queue."""
    return parameters(of(*given, **different))


# -- long messages


def test_a_long_message_has_the_columns_of_a_short_one(module_database: Any, client: Client, queue: str) -> None:
    eta = datetime.now(UTC) + timedelta(hours=3)
    headers = {"id": str(uuid4()), "tenant_id": str(uuid4())}
    for body in ("short", LONG):
        client.publish(body, queue, headers={**headers, "eta": eta.isoformat()}, priority=7)
        client.publish(body, queue, headers=headers, expiration=7200)
    short, short_expires, long, long_expires = rows(module_database.url, COLUMNS, queue=queue)
    assert (long, long_expires) == (short, short_expires)
    assert long[:4] == (7, headers["id"], headers["tenant_id"], eta)
    assert long_expires[-1] == timedelta(hours=2) or long_expires[-1] == timedelta(hours=2, minutes=-1)


def test_a_long_message_comes_as_it_was_through_every_way(client: Client, queue: str) -> None:
    """Its queue exists or not; and a transient one, which is not copied."""
    client.publish(LONG, exchange="", routing_key=queue)
    client.publish(LONG + "second", queue)
    client.publish(LONG + "transient", queue, delivery_mode=1)
    assert client.consume(queue).take_acked(3) == [LONG, LONG + "second", LONG + "transient"]


def test_a_long_message_to_no_queue_is_not_published(module_database: Any, queue: str) -> None:
    sessions = Sessions(module_database.url)
    assert PublishStore(sessions).publish(queue, of("x" * PublishStore.LONG)) is False
    sessions.close()


def test_a_long_message_advances_a_sequence_that_lags(module_database: Any, client: Client, queue: str) -> None:
    client.publish("first", queue)
    client.publish("second", queue)
    run(module_database.url, "SELECT setval('message_id_sequence', (SELECT max(id) FROM kombu_message) - 1)")
    client.publish(LONG, queue)
    assert client.consume(queue).take_acked(3) == ["first", "second", LONG]


def test_where_another_library_waits_for_answers_a_long_message_is_not_copied(client: Client, queue: str) -> None:
    """As gevent's psycogreen does: psycopg2 refuses COPY then."""

    def wait(connection: Any) -> None:
        while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
            reading = state == psycopg2.extensions.POLL_READ
            select.select([connection] if reading else [], [] if reading else [connection], [], DEADLINE_S)

    psycopg2.extensions.set_wait_callback(wait)
    try:
        client.publish(LONG, queue)
    finally:
        psycopg2.extensions.set_wait_callback(None)
    assert client.consume(queue).take_acked(1) == [LONG]


KINDS: list[tuple[str, Any, Any]] = [
    ("bigint", -(2**63), -(2**63)),
    ("smallint", 9, 9),
    ("text", LONG, LONG),
    ("text", "", ""),
    ("text", None, None),
    ("uuid", "00000000-0000-0000-0000-0000000000ff", "00000000-0000-0000-0000-0000000000ff"),
    ("timestamptz", 0, datetime(2000, 1, 1, tzinfo=UTC)),
    ("timestamptz", 252_455_615_999_000_001, datetime(9999, 12, 31, 23, 59, 59, 1, tzinfo=UTC)),
    ("timestamptz", -1, datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
]


@pytest.mark.parametrize(("kind", "given", "stored"), KINDS)
def test_a_value_is_copied_as_it_is(module_database: Any, kind: str, given: Any, stored: Any) -> None:
    with closing(psycopg2.connect(module_database.url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE copied (value {kind})")
        cursor.copy_expert("COPY copied FROM STDIN (FORMAT binary)", io.BytesIO(binary_row([(kind, given)])))
        cursor.execute("SELECT value FROM copied")
        assert cursor.fetchone() == (stored,)


# -- waking


@pytest.fixture
def sleep(session: Session, client: Client, queue: str) -> Callable[[str], None]:
    """``sleep(when)``: all consumers of the queue sleep since then, an interval from the start of the transaction."""

    def change(when: str) -> None:
        session.script(
            f"UPDATE kombu_subscription SET asleep = true, slept_at = now() + interval '{when}'"  # noqa: S608
            f" WHERE queue_id = (SELECT id FROM kombu_queue WHERE name = '{queue}')"
        )

    client.publish("first", queue)
    return change


@pytest.fixture
def heard(session: Session, queue: str) -> Callable[..., list[int]]:
    """``heard(session, …)``: how many notifications each consumer of the queue has received since the call before."""
    mark = (
        "SELECT pg_notify('kombu_' || subscription.consumer_id, 'mark')"  # noqa: S608
        " FROM kombu_subscription AS subscription JOIN kombu_queue AS queue ON queue.id = subscription.queue_id"
        f" WHERE queue.name = '{queue}'"
    )

    def count(*listeners: Session) -> list[int]:
        session.script(mark)
        found: list[list[str]] = [[] for _ in listeners]

        def marked() -> bool:
            for one, payloads in zip(listeners, found, strict=True):
                payloads += one.notifications()
            return all("mark" in payloads for payloads in found)

        wait_until(marked, DEADLINE_S, "the marks")
        return [len(payloads) - 1 for payloads in found]

    return count


def test_a_durable_commit_notifies_no_consumer_and_the_next_commit_does(
    session: Session,
    listener: Callable[[str], Session],
    sleep: Callable[[str], None],
    heard: Callable[..., list[int]],
    queue: str,
) -> None:
    """NOTIFY's lock would be held until the message is on the disk."""
    consumer = listener(queue)
    sleep("-1 second")
    session.run("publish", queue=queue, **envelope())
    assert heard(consumer) == [0]
    PublishStore(session).publish(queue, of())
    assert heard(consumer) == [1]
    PublishStore(session).publish(queue, of("x" * PublishStore.LONG))
    assert heard(consumer) == [1]
    later = datetime.now(UTC) + timedelta(hours=1)
    PublishStore(session).publish(queue, of(eta=later))
    assert heard(consumer) == [0]
    PublishStore(session).publish(queue, of(durable="no"))
    assert heard(consumer) == [1]


@pytest.mark.parametrize(
    ("slept", "woken"),
    [
        ("5 milliseconds", 0),  # it polls until then
        ("30 milliseconds", 0),
        ("-50 milliseconds", 1),  # it lives
        ("-150 milliseconds", 2),  # it may be dead
        ("1 hour", 2),  # a clock that was set back
    ],
)
def test_who_is_woken(
    session: Session,
    listener: Callable[[str], Session],
    sleep: Callable[[str], None],
    heard: Callable[..., list[int]],
    queue: str,
    slept: str,
    woken: int,
) -> None:
    """In one transaction, for which time stands still."""
    listeners = [listener(queue) for _ in range(3)]
    session.script("BEGIN")
    sleep(slept)
    ((queue_id, _),) = session.run("publish", queue=queue, **envelope())
    session.run("wake", queues=[queue_id])
    session.script("COMMIT")
    assert sum(heard(*listeners)) == woken


def test_what_a_publish_returns_says_whether_to_wake(
    session: Session, listener: Callable[[str], Session], sleep: Callable[[str], None], queue: str
) -> None:
    listener(queue)

    def returned(**different: Any) -> Any:
        ((_, relied_s),) = session.run("publish", queue=queue, **envelope(**different))
        return relied_s

    assert returned() is None  # it is awake
    session.script("BEGIN")
    sleep("30 milliseconds")
    assert returned() == pytest.approx(0.03)
    for when in ("-1 second", "1 hour"):  # it polls no more, or a clock was set back
        sleep(when)
        assert returned() == 0
    sleep("30 milliseconds")
    assert returned(eta=datetime.now(UTC) + timedelta(hours=1)) is None
    assert returned(durable="no") is None  # it has notified
    session.script("COMMIT")


def test_a_message_whose_publisher_died_before_it_woke_a_consumer_is_found(
    session: Session, client: Client, queue: str
) -> None:
    """By the heartbeat's look at the queues, each 1.2 s."""
    inbox = client.consume(queue)
    inbox.take_until(lambda: inbox.channel.buffer.pause() > PollingBackoff.STEPS_S[-1])
    session.run("publish", queue=queue, **envelope(_payload()))
    inbox.take()


def test_a_consumer_in_dense_traffic_sleeps_from_its_next_poll_on(
    module_database: Any, client: Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does poll then: so a publisher need not wake it before."""
    inbox = client.consume(queue)
    policy = inbox.channel.buffer.policy
    store = PublishStore(Sessions(module_database.url))
    many = [(queue, of(_payload()))] * 200
    promises = []

    def promised() -> bool:
        store.publish_many(many)
        inbox.take_acked(len(many))
        inbox.channel.buffer.deliver_next()
        promises.append(policy._polling.promised_s())
        return promises[-1] > 0

    inbox.take_until(promised)
    assert promises[-1] <= PollingBackoff.STEPS_S[0]
    # It polls then by itself, and not before.
    client.publish("x", queue)
    policy.notify()
    with monkeypatch.context() as stopped:
        stopped.setattr(time, "monotonic", lambda: policy._polling._promised - 1e-6)
        assert not policy.is_due(polls=True)
        stopped.setattr(time, "monotonic", lambda: policy._polling._promised)
        assert policy.is_due(polls=True)
    inbox.take_acked()


@pytest.mark.parametrize(("polls_for_s", "woken"), [(inf, 0), (0.0, 1)], ids=["polls", "rests"])
@pytest.mark.parametrize("how", ["publish", "copy_message", "publish_many", "publish_unique", "finish_chord"])
def test_who_fell_asleep_while_a_message_was_committed_is_woken_unless_it_still_polls(
    session: Session,
    listener: Callable[[str], Session],
    sleep: Callable[[str], None],
    heard: Callable[..., list[int]],
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    polls_for_s: float,
    woken: int,
) -> None:
    """A commit may wait for a standby for longer than a consumer polls that falls asleep meanwhile."""

    class Slow:
        def run(self, name: str, **parameters: Any) -> list[Any]:
            if name == "copy_message":
                sleep("-1 second")
            answer = session.run(name, **parameters)
            if name == how:
                sleep("-1 second")
            return answer

    consumer = listener(queue)
    monkeypatch.setattr(slow_commits, "POLLS_FOR_S", polls_for_s)

    def publish(**different: Any) -> None:
        store = PublishStore(Slow())
        if how == "finish_chord":
            session.script("INSERT INTO celery_chord (id, size, done, due_at) VALUES ('due', 1, 1, now())")
            assert ChordStore(Slow()).finish("due", [(queue, of(**different))]) == []
        elif how == "publish_many":
            assert store.publish_many([(queue, of(**different))] * 2) == []
        elif how == "publish_unique":
            different["unique"] = Unique(str(uuid4()), min(UNTIL.values()), "return")
            assert store.publish(queue, of(**different))
        else:
            assert store.publish(queue, of("x" * (PublishStore.LONG if how == "copy_message" else 1), **different))

    publish()
    assert heard(consumer) == [woken]
    session.script("UPDATE kombu_subscription SET asleep = false")
    publish(eta=datetime.now(UTC) + timedelta(hours=1))
    assert heard(consumer) == [0]


def _payload() -> str:
    properties = {"body_encoding": "utf-8", "delivery_info": {}, "delivery_tag": "x", "delivery_mode": 2}
    message = {"body": "1", "content-encoding": "utf-8", "content-type": "application/json", "headers": {}}
    return json.dumps({**message, "properties": properties})
