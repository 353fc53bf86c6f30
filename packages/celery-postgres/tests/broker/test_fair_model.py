"""A fair queue against its model, and its limits under many consumers at once."""

from __future__ import annotations

import base64
import json
import random
import secrets
import threading
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import psycopg2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kombu import Queue

from celery_postgres.consumer.fair_ring import FairRing
from celery_postgres.database.message_store import ClaimedMessage
from environment.testkit.client import Client
from environment.testkit.databases import rows
from environment.testkit.stateful import run_machine
from environment.testkit.tables import dead_letters
from environment.testkit.turns import MAX_FAILURES, TurnsConsumer
from environment.waiting import wait_until

CONSUMERS = 3
PLACES = 4
#: A key may be hostile text, and the empty one is what a message without a header has.
KEYS = ("a", "", "%", "'; DROP TABLE kombu_message; --", "\u202e𝄞" * 100)
QUIET = "quiet"


def body_of(message: ClaimedMessage) -> int:
    payload = json.loads(message.payload)
    body = payload["body"]
    if payload.get("properties", {}).get("body_encoding") == "base64":
        body = base64.b64decode(body).decode()
    return int(json.loads(body))


def change(url: str, statement: str, **parameters: Any) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def queue_of(url: str, name: str) -> int:
    ((found,),) = rows(url, "SELECT id FROM kombu_queue WHERE name = :name", name=name)
    return int(found)


def write_limit(url: str, queue: int, key: str, running: int | None) -> None:
    """Write how many of a key may run, or with None of each key that has no row of its own; a null removes it."""
    change(url, "DELETE FROM kombu_limit WHERE queue_id = %(queue)s AND key = %(key)s", queue=queue, key=key)
    if running is not None:
        change(
            url,
            "INSERT INTO kombu_limit (queue_id, key, flow_key, max_running)"
            " VALUES (%(queue)s, %(key)s, CASE WHEN %(key)s <> '*' THEN hashtextextended(%(key)s, 0) END, %(running)s)",
            queue=queue,
            key=key,
            running=running,
        )


class FairQueue(RuleBasedStateMachine):
    """One queue, which is fair most of the time, and a few consumers."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.name = f"fair-{secrets.token_hex(4)}"
        self.client = Client(self.url)
        self.client.declare(Queue(self.name, queue_arguments={"x-fair": True}))
        self.queue = queue_of(self.url, self.name)
        self.fair = True
        self.consumers: dict[int, TurnsConsumer] = {}
        self.count = 0
        self.ready: dict[int, tuple[str | None, int]] = {}  # message: key and priority, in the order of publishing
        self.returned: set[int] = set()  # ready again, or scheduled: its place among equals is not promised
        self.held: dict[int, tuple[int, ClaimedMessage, str | None, int]] = {}
        self.unsent: dict[int, set[int]] = {}  # acknowledged, by the consumer that is to send it
        self.failures: Counter[int] = Counter()
        self.limits: dict[str, int] = {}
        self.buried = 0
        self.letters_before = dead_letters(self.url)

    def consumer(self, number: int) -> TurnsConsumer:
        if number not in self.consumers:
            made = TurnsConsumer(self.url, 1000 + number, self.queue, places=PLACES)
            made.fairness.NEWEST_S = made.fairness.PAGE_S = made.fairness.REST_S = 0.0  # type: ignore[misc]
            made.fairness.NEWEST_SHARE = made.fairness.PAGE_SHARE = 0  # type: ignore[misc]
            self.consumers[number] = made
            self.unsent[number] = set()
        return self.consumers[number]

    # -- what can happen

    @rule(key=st.sampled_from(KEYS), priority=st.sampled_from([0, 0, 5]), messages=st.integers(1, 6))
    def publish(self, key: str, priority: int, messages: int) -> None:
        for _ in range(messages):
            self.send(key, priority)

    def send(self, key: str, priority: int = 0, **headers: Any) -> None:
        self.client.publish(
            self.count, exchange="", routing_key=self.name, priority=priority, headers={"flow_key": key, **headers}
        )
        self.ready[self.count] = (key if self.fair else None, priority)
        self.count += 1

    @rule(key=st.sampled_from(KEYS))
    def schedule(self, key: str) -> None:
        self.returned.add(self.count)
        self.send(key, eta=(datetime.now(UTC) + timedelta(milliseconds=30)).isoformat())

    @rule()
    def publish_as_older_releases_do(self) -> None:
        payload = f'{{"body": "{self.count}", "content-type": "application/json", "content-encoding": "utf-8"}}'
        change(
            self.url,
            "INSERT INTO kombu_message (queue_id, payload) VALUES (%(queue)s, %(payload)s)",
            queue=self.queue,
            payload=payload,
        )
        self.ready[self.count] = (None, 0)
        self.count += 1

    @rule(key=st.sampled_from((*KEYS[:2], "*")), running=st.none() | st.integers(0, 3))
    def limit(self, key: str, running: int | None) -> None:
        if key == "":
            return  # limits of the whole queue are written so
        write_limit(self.url, self.queue, key, running)
        self.limits.pop(key, None)
        if running is not None:
            self.limits[key] = running

    @rule(fair=st.booleans())
    def turn(self, fair: bool) -> None:
        change(self.url, "UPDATE kombu_queue SET fair = %(fair)s WHERE id = %(queue)s", fair=fair, queue=self.queue)
        self.fair = fair

    @rule(number=st.integers(0, CONSUMERS - 1), times=st.integers(1, 4))
    def claim(self, number: int, times: int) -> None:
        for _ in range(times):
            self.claim_once(number)

    def claim_once(self, number: int) -> list[int]:
        consumer = self.consumer(number)
        running = Counter(key for _, _, key, _ in self.held.values())
        brought = consumer.claim(fair=self.fair, force=True)
        self.unsent[number].clear()
        found = []
        for one in sorted(brought, key=lambda one: one.id):
            message = body_of(one)
            assert message in self.ready, "claimed twice, or unknown"
            key, priority = self.ready.pop(message)
            if message not in self.returned:
                fresh = [other for other, of in self.ready.items() if of == (key, priority)]
                assert all(other > message or other in self.returned for other in fresh), "first in, first out"
            self.returned.discard(message)
            self.held[message] = (number, one, key, priority)
            found.append(message)
        for key, now in Counter(key for _, _, key, _ in self.held.values()).items():
            limit = None if key is None else self.limits.get(key, self.limits.get("*"))
            assert limit is None or now <= max(limit, running[key]), (key, now, limit)
        return found

    def some(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.held)))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        message = self.some(data)
        number, one, _, _ = self.held.pop(message)
        self.consumers[number].ack(one)
        self.consumers[number].settle()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        message = self.some(data)
        number, one, key, priority = self.held.pop(message)
        self.consumers[number].fail(one)
        self.back(message, key, priority)

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.consumers)))
        self.consumers.pop(number).die()
        for message, (holder, _, key, priority) in list(self.held.items()):
            if holder == number:
                del self.held[message]
                self.back(message, key, priority)

    def back(self, message: int, key: str | None, priority: int) -> None:
        self.failures[message] += 1
        if self.failures[message] >= MAX_FAILURES:
            self.buried += 1
        else:
            self.ready[message] = (key, priority)
            self.returned.add(message)

    @precondition(lambda self: self.fair and self.limits.get("*", 1) > 0)
    @rule(number=st.integers(0, CONSUMERS - 1))
    def a_quiet_key(self, number: int) -> None:
        """Its turn comes after one of each other key, whatever they have queued."""
        self.send(QUIET)
        quiet = self.count - 1
        for _ in range(6 * (len(KEYS) + 2)):
            found = self.claim_once(number)
            for message in found:
                self.ack_now(message)
            if quiet in found:
                return
            if sum(key == QUIET for _, _, key, _ in self.held.values()) >= self.limits.get("*", 1000):
                return
        raise AssertionError("the quiet key has waited")

    def ack_now(self, message: int) -> None:
        number, one, _, _ = self.held.pop(message)
        self.consumers[number].ack(one)
        self.consumers[number].settle()

    # -- what must hold

    @invariant()
    def nothing_is_lost(self) -> None:
        found = rows(
            self.url,
            "SELECT visible, count(*) FROM kombu_message WHERE queue_id = :queue GROUP BY visible",
            queue=self.queue,
        )
        assert dict(found) == {
            state: many for state, many in ((True, len(self.ready)), (False, len(self.held))) if many
        }
        assert dead_letters(self.url) - self.letters_before == self.buried

    def teardown(self) -> None:
        try:
            change(self.url, "DELETE FROM kombu_limit WHERE queue_id = %(queue)s", queue=self.queue)
            self.limits = {}
            self.turn(True)
            for message in list(self.held):
                self.ack_now(message)

            def drained() -> bool:
                for message in self.claim_once(0):
                    self.ack_now(message)
                return not self.ready

            wait_until(drained, 60, "the end of the queue")
        finally:
            for consumer in self.consumers.values():
                consumer.session.close()
            self.client.close()


def test_a_fair_queue_agrees_with_its_model(module_database: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(FairRing, "PARKED_S", 0.02)
    run_machine(FairQueue, examples=8, steps=40, given={"url": module_database.url})


LIMIT, WORKERS, MESSAGES = 3, 8, 3000


def test_limits_hold_among_many_consumers(module_database: Any, queue: str, monkeypatch: Any) -> None:
    """Counted by a connection of its own. Messages fail, and consumers die and come again."""
    monkeypatch.setattr(FairRing, "PARKED_S", 0.05)
    url = module_database.url
    with closing(Client(url)) as client:
        client.declare(Queue(queue, queue_arguments={"x-fair": True}))
    number = queue_of(url, queue)
    published = 0

    def publish() -> None:
        nonlocal published
        change(
            url,
            "INSERT INTO kombu_message (queue_id, payload, available_at, flow_key)"
            " SELECT %(queue)s, '{}', now(), hashint8extended(i %% 20, 0) FROM generate_series(1, %(messages)s) AS i",
            queue=number,
            messages=MESSAGES,
        )
        published += MESSAGES

    publish()
    write_limit(url, number, "*", LIMIT)
    done: Counter[int] = Counter()
    settled = threading.Event()

    def work(seed: int) -> None:
        chance, lives = random.Random(seed), 0  # noqa: S311
        while not settled.is_set():
            consumer = TurnsConsumer(url, seed * 100 + lives, number, places=16)
            held: list[ClaimedMessage] = []
            for _ in range(40):
                chance.shuffle(held)
                for one in held[: len(held) // 2 + 1]:
                    held.remove(one)
                    if one.failures == 0 and chance.random() < 0.02:
                        consumer.fail(one)
                    else:
                        consumer.ack(one)
                        done[one.id] += 1
                consumer.settle()
                held += consumer.claim(force=True)
            for one in held[:3]:
                consumer.ack(one)
                done[one.id] += 1
            consumer.settle()
            consumer.die()
            lives += 1

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(1, WORKERS + 1)]
    looks, most = 0, 0
    try:
        for one in threads:
            one.start()
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True

            def look() -> bool:
                nonlocal looks, most
                cursor.execute(
                    "SELECT coalesce(max(running), 0), coalesce(sum(others), 0) FROM ("
                    "SELECT count(*) FILTER (WHERE NOT visible) AS running, count(*) AS others"
                    " FROM kombu_message WHERE queue_id = %s GROUP BY flow_key) AS keys",
                    [number],
                )
                running, left = cursor.fetchone()
                looks, most = looks + 1, max(most, running)
                if left == 0 and (looks <= 20 or most < LIMIT) and published < 5 * MESSAGES:
                    publish()  # they were faster than this connection, which has seen too little
                    return False
                return left == 0

            wait_until(look, 60, "the end of the queue")
    finally:
        settled.set()
        for one in threads:
            one.join()
    assert most == LIMIT, f"{most} were running in {looks} looks"
    assert looks > 20
    buried = rows(url, "SELECT count(*) FROM kombu_dead_letter WHERE queue = :queue", queue=queue)[0][0]
    assert len(done) + buried == published
    assert set(done.values()) == {1}
