"""What a message promises: it comes once, whole, in order, and goes only when somebody says so."""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from kombu import Producer, Queue

from celery_postgres.consumer.batch_size import BatchSize
from celery_postgres.consumer.polling import PollingBackoff
from celery_postgres.consumer.prefetch import PrefetchBuffer
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.tables import dead_letters, rows_of
from environment.waiting import wait_until

BODIES = {
    "json": ({"a": [1, 2.5, None, True], "ü": "ß"}, {}),
    "text": (
        "plain, with 'quotes', \"double\" and \\ back\\slashes\\",
        {"serializer": "raw", "content_type": "text/plain"},
    ),
    "unicode": ("Grüße, 你好, 🐘, \u202eright to left\u202c, line\nfeed", {}),
    "NUL": ("a\x00b", {}),
    "every byte": (bytes(range(256)), {"serializer": "raw", "content_type": "application/data"}),
    "no byte": (b"", {"serializer": "raw", "content_type": "application/data"}),
    "pickle": ({"a", "set"}, {"serializer": "pickle"}),
    "compressed": ("again " * 10_000, {"compression": "zlib"}),
    "1 MB of text": ("ü" + "x" * (1 << 20), {}),
    "1 MB of noise": (random.Random(1).randbytes(1 << 20), {"serializer": "raw", "content_type": "application/data"}),  # noqa: S311
}


# -- delivery


@pytest.mark.parametrize("body", BODIES)
def test_a_body_arrives_as_it_was_sent(client: Client, queue: str, body: str) -> None:
    sent, options = BODIES[body]
    client.publish(sent, queue, **options)
    (message,) = client.consume(queue).take()
    if sent == b"":
        assert message.body in (b"", "")
    else:
        assert message.payload == sent
    message.ack()


def test_headers_and_properties_arrive(client: Client, queue: str) -> None:
    headers = {"id": "x'; DROP TABLE kombu_message; --", "deep": {"list": [1, None]}, "ключ": "值", "nul": "a\x00b"}
    client.publish({}, queue, headers=headers, correlation_id="c", reply_to="r", message_id="m", app_id="a")
    (message,) = client.consume(queue).take()
    assert {name: message.headers[name] for name in headers} == headers
    expected = {"correlation_id": "c", "reply_to": "r", "message_id": "m", "app_id": "a"}
    assert {name: message.properties[name] for name in expected} == expected
    assert message.delivery_info["routing_key"] == queue
    assert not message.delivery_info.get("redelivered")
    assert message.content_type == "application/json"
    message.ack()


def test_a_message_that_was_published_before_anybody_listened_arrives(
    connect: Callable[..., Client], queue: str
) -> None:
    connect().publish("early", queue)
    assert connect().consume(queue).take_acked() == ["early"]


def test_a_message_to_a_queue_that_nobody_declared_is_kept(connect: Callable[..., Client], queue: str) -> None:
    """As with stock `sqla` and Redis: programs send by the default exchange to a queue that comes later."""
    connect().publish("early", exchange="", routing_key=queue)
    assert connect().consume(queue).take_acked() == ["early"]


def test_a_waiting_consumer_is_woken(connect: Callable[..., Client], queue: str) -> None:
    inbox = connect().consume(queue)
    assert inbox.nothing()
    connect().publish("x", queue)
    assert inbox.take_acked() == ["x"]


def test_several_queues_of_one_consumer_all_come(client: Client, queue: str) -> None:
    names = [f"{queue}-{number}" for number in range(5)]
    inbox = client.consume(*names)
    for name in names * 2:
        client.publish(name, name)
    assert sorted(inbox.take_acked(10)) == sorted(names * 2)


def test_messages_come_in_the_order_in_which_they_were_published(client: Client, queue: str) -> None:
    for number in range(200):
        client.publish(number, queue)
    assert client.consume(queue, prefetch=7).take_acked(200) == list(range(200))


def test_waiting_ends_with_a_timeout_when_nothing_comes(client: Client, queue: str) -> None:
    client.consume(queue)
    with pytest.raises(TimeoutError):
        client.connection.drain_events(timeout=0.1)


def test_basic_get_takes_what_is_there(client: Client, queue: str) -> None:
    client.publish("x", queue)
    message = client.get(queue)
    assert message is not None
    assert message.payload == "x"
    message.ack()
    assert client.get(queue) is None


def test_two_consumers_share_a_queue(connect: Callable[..., Client], queue: str) -> None:
    inboxes = [connect().consume(queue, prefetch=1) for _ in range(2)]
    sender = connect()
    for number in range(20):
        sender.publish(number, queue)
    got: list[int] = []

    def all_came() -> bool:
        for inbox in inboxes:
            inbox.drain(0.05)
            for message in inbox.messages:
                got.append(message.payload)
                message.ack()
            inbox.messages.clear()
        return len(got) >= 20

    wait_until(all_came, DEADLINE_S, "20 messages")
    assert all(inbox.nothing() for inbox in inboxes)
    assert sorted(got) == list(range(20))


# -- ack, reject, close


def test_an_acknowledged_message_leaves_the_table(
    connect: Callable[..., Client], queue: str, module_database: Any
) -> None:
    client = connect()
    client.publish("x", queue)
    client.consume(queue).take_acked()
    client.close()
    wait_until(lambda: rows_of(module_database.url, queue) == 0, DEADLINE_S, "the row to go")
    assert connect().consume(queue).nothing()


def test_what_a_closed_connection_had_not_acknowledged_comes_again(connect: Callable[..., Client], queue: str) -> None:
    first = connect()
    for number in range(3):
        first.publish(number, queue)
    one, _, _ = first.consume(queue).take(3)
    one.ack()
    first.close()
    messages = connect().consume(queue).take(2)
    assert sorted(message.payload for message in messages) == [1, 2]


def test_what_was_given_back_at_close_comes_before_what_was_published_later(
    connect: Callable[..., Client], queue: str
) -> None:
    first, second = connect(), connect()
    first.publish("first", queue)
    first.consume(queue).take()
    second.publish("second", queue)
    first.close()
    inbox = second.consume(queue)
    assert sorted(inbox.take_acked(2)) == ["first", "second"]
    assert inbox.nothing()


@pytest.mark.parametrize("way", ["reject", "requeue", "recover"])
def test_a_requeued_message_comes_again_and_says_so(client: Client, queue: str, way: str) -> None:
    client.publish("x", queue)
    inbox = client.consume(queue)
    (message,) = inbox.take()
    if way == "reject":
        message.reject(requeue=True)
    elif way == "requeue":
        message.requeue()
    else:
        inbox.channel.basic_recover(requeue=True)
    (again,) = inbox.take()
    assert again.payload == "x"
    if way != "recover":
        assert again.delivery_info["redelivered"] is True
    again.ack()
    assert inbox.nothing()


def test_a_requeued_message_says_so_in_its_headers_too(client: Client, queue: str) -> None:
    """Where the Redis transport says it, so that programs that come from there see it."""
    client.publish("x", queue)
    inbox = client.consume(queue)
    (message,) = inbox.take()
    assert not message.headers.get("redelivered")
    message.reject(requeue=True)
    (again,) = inbox.take()
    assert again.headers.get("redelivered") is True
    again.ack()


def test_a_requeued_message_goes_to_another_consumer(connect: Callable[..., Client], queue: str) -> None:
    first, second = connect(), connect()
    first.publish("x", queue)
    inbox = first.consume(queue)
    (message,) = inbox.take()
    inbox.consumer.cancel()
    message.reject(requeue=True)
    assert second.consume(queue).take_acked() == ["x"]


def test_a_rejected_message_is_kept_as_a_dead_letter(client: Client, queue: str, module_database: Any) -> None:
    mark = secrets.token_hex(8)
    client.publish("x", queue, correlation_id=mark)
    inbox = client.consume(queue)
    (message,) = inbox.take()
    message.reject(requeue=False)
    wait_until(lambda: dead_letters(module_database.url, mark) == 1, DEADLINE_S, "the dead letter")
    assert inbox.nothing()
    assert rows_of(module_database.url, queue) == 0


def test_a_message_that_always_comes_back_ends_as_a_dead_letter(
    client: Client, queue: str, module_database: Any
) -> None:
    """Five failures, whoever requeues: the loop ends, and the message is kept."""
    mark = secrets.token_hex(8)
    client.publish("poison", queue, correlation_id=mark)
    inbox = client.consume(queue)
    deliveries = 0

    def buried() -> bool:
        nonlocal deliveries
        inbox.drain(0.1)
        while inbox.messages:
            deliveries += 1
            inbox.messages.pop().reject(requeue=True)
        return dead_letters(module_database.url, mark) == 1

    wait_until(buried, DEADLINE_S, "the dead letter")
    assert deliveries == 5
    client.publish("healthy", queue)
    assert inbox.take_acked() == ["healthy"]


def test_giving_back_is_no_failure(connect: Callable[..., Client], queue: str, module_database: Any) -> None:
    """A worker that restarts ten times in front of a message does not condemn it."""
    mark = secrets.token_hex(8)
    connect().publish("x", queue, correlation_id=mark)
    for _ in range(10):
        holder = connect()
        holder.consume(queue).take()
        holder.close()
    assert connect().consume(queue).take_acked() == ["x"]
    assert dead_letters(module_database.url, mark) == 0


def test_a_consumer_without_acks_takes_for_good(
    connect: Callable[..., Client], queue: str, module_database: Any
) -> None:
    client = connect()
    client.publish("x", queue)
    inbox = client.consume(queue, no_ack=True)
    (message,) = inbox.take()
    assert message.payload == "x"
    client.close()
    wait_until(lambda: rows_of(module_database.url, queue) == 0, DEADLINE_S, "the row to go")


@pytest.fixture
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat's look at the queues, each 1.2 s, finds what a consumer has missed."""
    monkeypatch.setattr(PrefetchBuffer, "RESTING_S", 3600)


def test_a_consumer_without_acks_looks_again_soon(unattended: None, client: Client, queue: str) -> None:
    """For a publisher whose transaction began before it could read that this consumer is to be notified."""
    client.publish("x", queue)
    inbox = client.consume(queue, no_ack=True)
    inbox.take()
    for step in PollingBackoff.STEPS_S[1:]:
        inbox.drain(0)
        assert inbox.channel.buffer.pause() <= PollingBackoff.STEPS_S[-1], step
    inbox.drain(0)
    assert inbox.channel.buffer.pause() > PollingBackoff.STEPS_S[-1]


def test_a_consumer_without_acks_takes_all_there_is(unattended: None, client: Client, queue: str) -> None:
    late = datetime.now(UTC) + timedelta(seconds=0.3)
    client.publish("late", queue, headers={"eta": late.isoformat()})
    for number in range(2 * BatchSize.AUTO_ACK_LIMIT + 1):
        client.publish(number, queue)
    inbox = client.consume(queue, no_ack=True)
    payloads = [message.payload for message in inbox.take(2 * BatchSize.AUTO_ACK_LIMIT + 2, deadline_s=5)]
    assert {*payloads} == {*range(2 * BatchSize.AUTO_ACK_LIMIT + 1), "late"}


def test_acknowledging_twice_is_an_error_and_costs_nobody_anything(client: Client, queue: str) -> None:
    client.publish(1, queue)
    client.publish(2, queue)
    inbox = client.consume(queue, prefetch=1)
    (message,) = inbox.take()
    message.ack()
    with pytest.raises(message.MessageStateError):
        message.ack()
    assert inbox.take_acked() == [2]


# -- prefetch


def test_no_more_is_delivered_than_the_prefetch_allows(client: Client, queue: str) -> None:
    for number in range(6):
        client.publish(number, queue)
    inbox = client.consume(queue, prefetch=2)
    one, two = inbox.take(2)
    assert inbox.nothing()
    one.ack()
    (three,) = inbox.take(1)
    assert inbox.nothing()
    two.reject(requeue=False)
    (four,) = inbox.take(1)
    assert inbox.nothing()
    inbox.channel.basic_qos(0, 3, False)
    (five,) = inbox.take(1)
    assert inbox.nothing()
    assert [m.payload for m in (one, two, three, four, five)] == [0, 1, 2, 3, 4]


def test_a_lower_prefetch_holds_from_now_on(client: Client, queue: str) -> None:
    for number in range(5):
        client.publish(number, queue)
    inbox = client.consume(queue, prefetch=3)
    held = inbox.take(3)
    inbox.channel.basic_qos(0, 1, False)
    held[0].ack()
    held[1].ack()
    assert inbox.nothing()
    held[2].ack()
    inbox.take(1)
    assert inbox.nothing()


def test_an_ack_wakes_a_consumer_that_ran_out_of_credit(client: Client, queue: str) -> None:
    """Also one that had nothing left in its buffer when it did: else it waits for the next beat."""
    client.publish(1, queue)
    client.publish(2, queue)
    consumer = client.consume(queue, prefetch=1)
    (message,) = consumer.take(1)
    inbox = client.connection.connection.buffer
    assert not inbox.holds_messages

    def rests() -> bool:
        inbox.deliver_next()  # it is notified once when its process has begun to listen
        inbox.wake.clear()
        return inbox.heartbeat.without_notifications is False and inbox.pause() is None

    wait_until(rests, DEADLINE_S, "the consumer to rest")

    message.ack()

    assert inbox.wake.wait(0) == [inbox.wake.fileno()]
    assert inbox.pause() == 0


def test_what_one_consumer_may_not_take_another_gets(connect: Callable[..., Client], queue: str) -> None:
    """A consumer that is full holds nothing back: not in its credit and not in a buffer."""
    full, free = connect(), connect()
    for number in range(20):
        full.publish(number, queue)
    held = full.consume(queue, prefetch=1).take(1)
    assert sorted(free.consume(queue, prefetch=1).take_acked(19)) == list(range(1, 20))
    held[0].ack()


def test_a_full_consumer_rests_although_more_is_waiting(
    connect: Callable[..., Client], queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect()
    for number in range(2):
        client.publish(number, queue)
    inbox = client.consume(queue, prefetch=1)
    (held,) = inbox.take(1)
    looks = []
    deliver_next = PrefetchBuffer.deliver_next

    def counted(self: PrefetchBuffer, force: bool = False) -> bool:
        looks.append(force)
        return deliver_next(self, force)

    monkeypatch.setattr(PrefetchBuffer, "deliver_next", counted)
    client.connection.transport.buffer.notify()
    assert inbox.nothing()
    assert len(looks) < 20, "it turned all the time"
    held.ack()
    assert inbox.take_acked() == [1]


# -- priority


def test_higher_priority_comes_first_and_equals_come_in_order(client: Client, queue: str) -> None:
    sent = [(priority, number) for number in range(3) for priority in (5, 0, 9, 3, 7, 1, 8, 2, 6, 4)]
    for priority, number in sent:
        client.publish([priority, number], queue, priority=priority)
    came = client.consume(queue, prefetch=1).take_acked(len(sent))
    assert came == [[priority, number] for priority in range(9, -1, -1) for number in range(3)]


def test_a_requeued_message_does_not_overtake_a_higher_priority(client: Client, queue: str) -> None:
    for number in range(2):
        client.publish(f"low {number}", queue, priority=0)
    inbox = client.consume(queue, prefetch=1)
    (low,) = inbox.take()
    due = datetime.now(UTC) + timedelta(seconds=0.2)
    client.publish("high", queue, priority=9)
    client.publish("due", queue, priority=6, headers={"task": "t", "id": "i", "eta": due.isoformat()})
    client.publish("middle", queue, priority=5)
    wait_until(lambda: datetime.now(UTC) > due, DEADLINE_S, "the time of one")
    low.reject(requeue=True)
    # But those of its own priority, of which it was the first.
    assert inbox.take_acked(5) == ["high", "due", "middle", "low 0", "low 1"]


def test_requeued_messages_come_in_the_order_of_their_priorities(client: Client, queue: str) -> None:
    for priority in (0, 9, 5):
        client.publish(priority, queue, priority=priority)
    taken = client.consume(queue).take(3)
    for message in sorted(taken, key=lambda one: int(one.payload)):
        message.reject(requeue=True)
    client.publish("new", queue, priority=3)
    assert client.consume(queue, prefetch=1).take_acked(4) == [9, 5, "new", 0]


def test_a_priority_out_of_range_counts_as_the_nearest(client: Client, queue: str) -> None:
    for priority in (9, None, 0, 200, -3):
        client.publish(priority, queue, priority=priority)
    assert client.consume(queue, prefetch=1).take_acked(5) == [9, 200, None, 0, -3]


def test_a_stream_of_urgent_messages_keeps_its_order(client: Client, queue: str) -> None:
    """Urgent messages published while a consumer works come before older ones that wait."""
    for number in range(3):
        client.publish(f"old {number}", queue, priority=0)
    inbox = client.consume(queue, prefetch=1)
    (first,) = inbox.take()
    for number in range(3):
        client.publish(f"urgent {number}", queue, priority=9)
    first.ack()
    came = inbox.take_acked(5)
    assert first.payload == "old 0"
    assert came == ["urgent 0", "urgent 1", "urgent 2", "old 1", "old 2"]


# -- time


def test_a_message_with_an_eta_is_held_until_then(client: Client, queue: str) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.7)
    client.publish("later", queue, headers={"task": "t", "id": "i", "eta": due.isoformat()})
    client.publish("now", queue)
    inbox = client.consume(queue)
    (first,) = inbox.take()
    # It is not kept waiting by the other, unless this test comes so late that both are due.
    assert first.payload == "now" or datetime.now(UTC) >= due
    (second,) = inbox.take()
    assert datetime.now(UTC) >= due
    (message,) = [one for one in (first, second) if one.payload == "later"]
    assert datetime.fromisoformat(message.headers["eta"]) == due
    message.ack()


def test_due_messages_come_in_the_order_in_which_they_fall_due(client: Client, queue: str) -> None:
    now = datetime.now(UTC)
    for delay in (1.6, 1.2, 1.4, -60):
        eta = (now + timedelta(seconds=delay)).isoformat()
        client.publish(delay, queue, headers={"task": "t", "id": "i", "eta": eta})
    assert client.consume(queue, prefetch=1).take_acked(4) == [-60, 1.2, 1.4, 1.6]


def test_an_eta_far_away_stands_in_nobodys_way(client: Client, queue: str) -> None:
    far = (datetime.now(UTC) + timedelta(days=3650)).isoformat()
    for number in range(50):
        client.publish(number, queue, headers={"task": "t", "id": str(number), "eta": far})
    inbox = client.consume(queue, prefetch=2)
    client.publish("now", queue)
    assert inbox.take_acked() == ["now"]
    assert inbox.nothing()


@pytest.mark.parametrize(
    "eta", ["2999-01-01T00:00:00+05:30", "2999-01-01T00:00:00Z", "2999-01-01T00:00:00"], ids=["offset", "Z", "naive"]
)
def test_every_form_of_eta_is_understood(client: Client, queue: str, eta: str) -> None:
    client.publish("later", queue, headers={"task": "t", "id": "i", "eta": eta})
    assert client.consume(queue).nothing()


@pytest.mark.parametrize("eta", ["soon", "", 17, {"a": 1}, "0000-00-00T99:99:99"])
def test_an_eta_that_is_no_time_loses_nothing(client: Client, queue: str, eta: Any) -> None:
    client.publish("x", queue, headers={"task": "t", "id": "i", "eta": eta})
    client.publish("y", queue)
    assert sorted(client.consume(queue).take_acked(2)) == ["x", "y"]


def test_a_message_that_has_expired_is_not_delivered(client: Client, queue: str) -> None:
    client.publish("short", queue, expiration=0.2)
    client.publish("long", queue, expiration=600)
    client.publish("endless", queue)
    wait_until(lambda: client.count(queue) == 2, DEADLINE_S, "the first message to expire")
    inbox = client.consume(queue)
    assert inbox.take_acked(2) == ["long", "endless"]
    assert inbox.nothing()


def test_a_message_that_expires_while_its_consumer_is_full_is_not_delivered(client: Client, queue: str) -> None:
    client.publish("first", queue)
    inbox = client.consume(queue, prefetch=1)
    (first,) = inbox.take()
    published = time.monotonic()
    client.publish("short", queue, expiration=0.3)
    client.publish("last", queue)
    wait_until(lambda: time.monotonic() > published + 0.6, DEADLINE_S, "the message to expire")
    first.ack()
    assert inbox.take_acked() == ["last"]
    assert inbox.nothing()


def test_a_queue_may_limit_the_life_of_its_messages(client: Client, queue: str) -> None:
    short_lived = Queue(queue, message_ttl=0.2)
    client.publish("x", short_lived)
    wait_until(lambda: client.count(queue) == 0, DEADLINE_S, "the message to expire")
    assert client.consume(short_lived).nothing()


def test_celerys_own_expiry_is_celerys(client: Client, queue: str) -> None:
    """Celery sends `expires` and `expiration` together.  It must see the task to mark it REVOKED; a transport that
    swallows it leaves get() waiting for ever.
    """
    past = (datetime.now(UTC) - timedelta(seconds=60)).isoformat()
    client.publish("x", queue, headers={"task": "t", "id": "i", "expires": past}, expiration=0)
    (message,) = client.consume(queue).take()
    assert message.headers["expires"] == past
    message.ack()


def test_a_channel_that_closes_gives_back_while_its_connection_lives(client: Client, queue: str) -> None:
    client.publish("x", queue)
    inbox = client.consume(queue)
    inbox.take()
    inbox.close()
    assert client.consume(queue).take_acked() == ["x"]


def test_a_cancelled_consumer_gets_nothing_more(connect: Callable[..., Client], queue: str) -> None:
    first, second = connect(), connect()
    inbox = first.consume(queue, prefetch=1)
    for number in range(10):
        first.publish(number, queue)
    (held,) = inbox.take()
    inbox.consumer.cancel()
    held.ack()
    with contextlib.suppress(TimeoutError):
        first.connection.drain_events(timeout=0.2)
    assert inbox.messages == []
    assert sorted(second.consume(queue).take_acked(9)) == list(range(1, 10))


def test_a_producer_whose_declaration_failed_once_publishes(client: Client, queue: str) -> None:
    """Kombu closes the channel then, declares on another, and publishes on the closed one first."""

    class Failing(Queue):
        left = 1

        def declare(self, *arguments: Any, **options: Any) -> Any:
            if Failing.left:
                Failing.left -= 1
                raise psycopg2.OperationalError("server closed the connection unexpectedly")
            return super().declare(*arguments, **options)

    producer = Producer(client.channel)
    producer.publish("x", exchange="", routing_key=queue, declare=[Failing(queue)], retry=True)
    assert Failing.left == 0
    assert client.consume(Queue(queue)).take_acked() == ["x"]


def test_a_closed_channel_says_so(client: Client, queue: str) -> None:
    channel = client.connection.channel()
    channel.close()
    with pytest.raises(client.connection.connection_errors, match="the channel is closed"):
        Producer(channel, auto_declare=False).publish("x", exchange="", routing_key=queue)


def test_a_signal_handler_may_cancel_the_consumer_that_is_about_to_deliver(client: Client, queue: str) -> None:
    """QUIT does, in the thread that it interrupts. The worker then waited for itself."""
    for number in range(3):
        client.publish(number, queue)
    inbox = client.consume(queue, prefetch=2)
    qos, interrupted = inbox.channel.qos, threading.Event()
    look = qos.can_consume

    def interrupt() -> bool:
        if inbox.channel.buffer.holds_messages and not interrupted.is_set():
            interrupted.set()
            inbox.consumer.cancel()
        return bool(look())

    qos.can_consume = interrupt
    thread = threading.Thread(target=lambda: inbox.drain(0.5), daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert interrupted.is_set()
    wait_until(lambda: client.count(queue) == 3, DEADLINE_S, "all of them to be free again")
