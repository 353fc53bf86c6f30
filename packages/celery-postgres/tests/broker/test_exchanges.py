"""Where a message goes: exchanges and bindings, which every process sees whoever declared them."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from kombu import Exchange, Queue, binding

from environment.testkit.client import Client

TOPICS = {
    # pattern: (keys that match, keys that do not), as AMQP 0-9-1 (3.1.3.3) and RabbitMQ's tutorial 5 have it
    "stock.*.nyse": (["stock.usd.nyse"], ["stock.nyse", "stock.usd.eur.nyse", "stock.usd.nyse.x"]),
    "stock.#": (["stock", "stock.usd", "stock.usd.nyse"], ["stocks", "x.stock"]),
    "#.nyse": (["nyse", "usd.nyse", "stock.usd.nyse"], ["nyse.usd", "xnyse"]),
    "a.#.z": (["a.z", "a.b.z", "a.b.c.z"], ["a", "a.b", "az"]),
    "*": (["word", "ü"], ["two.words"]),
    "#": (["", "word", "two.words"], []),
    "*.*": (["two.words"], ["word", "three.words.here"]),
    "plain.key": (["plain.key"], ["plainxkey", "plain.keys", "plain"]),
    "a+b.(c|d).*": (["a+b.(c|d).x"], ["aab.c.x", "a+b.c.x"]),
    "100%._.*": (["100%._.x"], ["100x._.x", "100%.y.x"]),
    "task.#.*": (["task.failed", "task.a.b"], ["task"]),
}


@pytest.fixture
def exchange_name() -> str:
    return f"x-{secrets.token_hex(4)}"


def bound(name: str, exchange: Exchange, key: str = "") -> Queue:
    return Queue(name, exchange, key)


def send(client: Client, exchange: Exchange, key: str, body: object = "x") -> None:
    client.publish(body, exchange=exchange.name, routing_key=key)


# -- direct


def test_a_direct_exchange_delivers_a_copy_to_each_queue_with_that_key(
    client: Client, queue: str, exchange_name: str
) -> None:
    direct = Exchange(exchange_name, "direct")
    inboxes = [client.consume(bound(f"{queue}-{n}", direct, key)) for n, key in enumerate(["red", "red", "blue"])]
    send(client, direct, "red")
    send(client, direct, "green")
    assert inboxes[0].take_acked() == ["x"]
    assert inboxes[1].take_acked() == ["x"]
    assert inboxes[2].nothing()
    assert inboxes[0].nothing()


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_a_binding_is_seen_by_a_connection_that_did_not_declare_it(
    connect: Callable[..., Client], queue: str, exchange_name: str, kind: str
) -> None:
    exchange = Exchange(exchange_name, kind)
    key = "a.*" if kind == "topic" else "a.b"
    consumer, publisher = connect(), connect()
    publisher.declare(exchange)
    inbox = consumer.consume(bound(queue, exchange, key))
    send(publisher, exchange, "a.b")
    assert inbox.take_acked() == ["x"]


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_a_publisher_need_not_declare_the_exchange(
    connect: Callable[..., Client], queue: str, exchange_name: str, kind: str
) -> None:
    """As with a real broker: the exchange is there, whoever made it."""
    exchange = Exchange(exchange_name, kind)
    inbox = connect().consume(bound(queue, exchange, "a.b"))
    send(connect(), exchange, "a.b")
    assert inbox.take_acked() == ["x"]


def test_a_binding_made_after_the_publisher_began_is_seen(
    connect: Callable[..., Client], queue: str, exchange_name: str
) -> None:
    exchange = Exchange(exchange_name, "direct")
    publisher = connect()
    publisher.declare(exchange)
    send(publisher, exchange, "k", "to nobody")
    inbox = connect().consume(bound(queue, exchange, "k"))
    send(publisher, exchange, "k", "to somebody")
    assert inbox.take_acked() == ["to somebody"]
    assert inbox.nothing()


def test_an_unbound_queue_receives_no_more_messages(
    connect: Callable[..., Client], queue: str, exchange_name: str
) -> None:
    exchange = Exchange(exchange_name, "direct")
    publisher, consumer = connect(), connect()
    both = bound(queue, exchange, "one")
    inbox = consumer.consume(both)
    both(consumer.channel).bind_to(exchange, "two")
    both(consumer.channel).unbind_from(exchange, "one")
    send(publisher, exchange, "one")
    send(publisher, exchange, "two")
    inbox.take_acked(1)
    assert inbox.nothing()


def test_a_deleted_exchange_routes_nowhere(connect: Callable[..., Client], queue: str, exchange_name: str) -> None:
    exchange = Exchange(exchange_name, "fanout")
    inbox = connect().consume(bound(queue, exchange))
    remover = connect()
    remover.declare(exchange)
    exchange(remover.channel).delete()
    publisher = connect()
    publisher.declare(exchange)
    send(publisher, exchange, "")
    assert inbox.nothing()


def test_a_message_without_a_queue_is_no_error(client: Client, exchange_name: str) -> None:
    exchange = Exchange(exchange_name, "direct")
    client.declare(exchange)
    send(client, exchange, "nobody")


# -- fanout


def test_fanout_reaches_every_queue_whatever_the_key(
    connect: Callable[..., Client], queue: str, exchange_name: str
) -> None:
    news = Exchange(exchange_name, "fanout")
    inboxes = [connect().consume(bound(f"{queue}-{n}", news, key)) for n, key in enumerate(["", "ignored"])]
    publisher = connect()
    publisher.declare(news)
    for number in range(3):
        send(publisher, news, f"key {number}", number)
    for inbox in inboxes:
        assert inbox.take_acked(3) == [0, 1, 2]


def test_fanout_does_not_reach_a_queue_bound_later(
    connect: Callable[..., Client], queue: str, exchange_name: str
) -> None:
    news = Exchange(exchange_name, "fanout")
    publisher = connect()
    publisher.declare(news)
    send(publisher, news, "", "missed")
    inbox = connect().consume(bound(queue, news))
    send(publisher, news, "", "heard")
    assert inbox.take_acked() == ["heard"]


# -- topic


@pytest.mark.parametrize("pattern", TOPICS)
def test_topic_patterns_match_as_in_amqp(client: Client, queue: str, exchange_name: str, pattern: str) -> None:
    topic = Exchange(exchange_name, "topic")
    inbox = client.consume(bound(queue, topic, pattern))
    matching, others = TOPICS[pattern]
    for key in [*others, *matching]:
        send(client, topic, key, {"key": key})
    assert inbox.take_acked(len(matching)) == [{"key": key} for key in matching]
    assert inbox.nothing()


def test_a_queue_with_two_matching_bindings_gets_one_copy(client: Client, queue: str, exchange_name: str) -> None:
    topic = Exchange(exchange_name, "topic")
    twice = Queue(queue, bindings=[binding(topic, "a.*"), binding(topic, "#.b"), binding(topic, "a.b")])
    inbox = client.consume(twice)
    send(client, topic, "a.b")
    assert inbox.take_acked() == ["x"]
    assert inbox.nothing()


def test_binding_twice_changes_nothing(connect: Callable[..., Client], queue: str, exchange_name: str) -> None:
    exchange = Exchange(exchange_name, "direct")
    both = bound(queue, exchange, "k")
    for _ in range(2):
        connect().declare(both, both)
    inbox = connect().consume(both)
    send(connect(), exchange, "k")
    assert inbox.take_acked() == ["x"]
    assert inbox.nothing()


# -- names that must not be mixed up


@pytest.mark.parametrize("kind", ["direct", "topic"])
def test_exchange_and_routing_key_are_kept_apart(client: Client, queue: str, exchange_name: str, kind: str) -> None:
    """`foo` + `bar.x` and `foo.bar` + `x` make one text when joined by a dot."""
    foo, foobar = Exchange(exchange_name, kind), Exchange(f"{exchange_name}.bar", kind)
    one = client.consume(bound(f"{queue}-one", foo, "bar.x"))
    two = client.consume(bound(f"{queue}-two", foobar, "x"))
    send(client, foo, "bar.x", "one")
    send(client, foobar, "x", "two")
    assert one.take_acked() == ["one"]
    assert two.take_acked() == ["two"]
    assert one.nothing()
    assert two.nothing()


def test_an_exchange_and_a_queue_may_share_a_name(client: Client, queue: str) -> None:
    exchange = Exchange(queue, "direct")
    elsewhere = client.consume(bound(f"{queue}-elsewhere", exchange, queue))
    same = client.consume(queue)
    send(client, exchange, queue, "by the exchange")
    client.publish("by the queue", queue)
    assert elsewhere.take_acked() == ["by the exchange"]
    assert same.take_acked() == ["by the queue"]


def test_one_queue_may_be_bound_to_several_exchanges(client: Client, queue: str, exchange_name: str) -> None:
    exchanges = [Exchange(f"{exchange_name}-{kind}", kind) for kind in ("direct", "topic", "fanout")]
    inbox = client.consume(Queue(queue, bindings=[binding(exchange, "k") for exchange in exchanges]))
    for exchange in exchanges:
        send(client, exchange, "k", exchange.type)
    assert sorted(inbox.take_acked(3)) == ["direct", "fanout", "topic"]


def test_priority_expiry_and_eta_hold_behind_an_exchange_too(client: Client, queue: str, exchange_name: str) -> None:
    exchange = Exchange(exchange_name, "topic")
    both = bound(queue, exchange, "#")
    client.declare(both)
    options = {"exchange": exchange.name, "routing_key": "k"}
    client.publish("low", **options, priority=1)
    client.publish("high", **options, priority=8)
    client.publish("held", **options, priority=9, headers={"task": "t", "id": "i", "eta": "2999-01-01T00:00:00+00:00"})
    inbox = client.consume(both, prefetch=1)
    assert inbox.take_acked(2) == ["high", "low"]
    assert inbox.nothing()
