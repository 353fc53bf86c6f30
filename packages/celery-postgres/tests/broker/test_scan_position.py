"""The scan position passes over no message for longer than until the next full scan, whatever publishers do.

Publishers are real sessions, whose transactions overlap; the consumer is the real policy and the real statement. Only
the clock is not real.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, ClassVar

import psycopg2
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from celery_postgres.consumer.claim_policy import ClaimPolicy
from celery_postgres.consumer.ended_transactions import EndedTransactions
from celery_postgres.consumer.outlet import Subscription
from celery_postgres.consumer.scan_position import ScanPosition
from celery_postgres.database.message_store import Claim, ClaimedMessage, MessageStore
from celery_postgres.database.session import Session
from celery_postgres.database.snapshot import Snapshot
from environment.testkit.stateful import run_machine


class Clock:
    """Stands for `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Publisher:
    """A session whose transaction lasts until the test ends it."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg2.connect(url)
        self.written: list[int] = []
        #: The number of its transaction, if it has written.
        self.transaction: int | None = None

    def run(self, statement: str, *values: Any) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            found = cursor.fetchall() if cursor.description else []
            cursor.execute("SELECT pg_current_xact_id_if_assigned()::text::bigint")
            (self.transaction,) = cursor.fetchone()
            return found

    def publish(self, queue: int, count: int = 1, priority: int = 0, ready: bool = True) -> list[int]:
        self.written += (new := [
            message
            for (message,) in self.run(
                "INSERT INTO kombu_message (queue_id, payload, priority, available_at)"
                " SELECT %s, '{}', %s, CASE WHEN %s THEN NULL ELSE now() END FROM generate_series(1, %s) RETURNING id",
                queue, priority, ready, count,
            )
        ])  # fmt: skip
        return new

    def commit(self) -> list[int]:
        self.connection.commit()
        written, self.written, self.transaction = self.written, [], None
        return written

    def rollback(self) -> None:
        self.connection.rollback()
        self.written, self.transaction = [], None


class Consumer:
    """Claims as a worker does, from the queues that it makes."""

    def __init__(self, url: str, clock: Clock, queues: int = 1) -> None:
        self.clock = clock
        self.session = Session(url)
        self.store = MessageStore(self.session)
        self.policy = ClaimPolicy()
        self.acks: list[Claim] = []
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            self.queues = []
            for _ in range(queues):
                cursor.execute("INSERT INTO kombu_queue (name) VALUES (%s) RETURNING id", [secrets.token_hex(8)])
                self.queues.append(cursor.fetchone()[0])
        self.queue = self.queues[0]
        self.full_scan = False
        self.publishers: list[Publisher] = []
        for queue in self.queues:
            self.policy.add_queue(queue)

    def claim(self, limit: int = 100) -> list[ClaimedMessage]:
        """Claim, and acknowledge with the next claim what this one brings."""
        subscriptions: list[Any] = [
            Subscription(str(queue), None, auto_ack=False, queue_id=queue)  # type: ignore[arg-type]
            for queue in self.queues
        ]
        plan = self.policy.plan(subscriptions, limit, [], polls=True)
        self.full_scan = plan.full_scan
        result = self.store.claim(1, plan.lowest_ids, limit=limit, acks=self.acks, may_sleep=plan.may_sleep)
        # The server's other databases are other tests', whose transactions are none of ours.
        ours = {one.transaction for one in self.publishers}
        running = tuple(one for one in result.snapshot.running if one in ours)
        self.policy.succeeded(plan, replace(result, snapshot=Snapshot(result.snapshot.next_id, running)))
        self.acks = [one.claim for one in result.messages]
        return sorted(result.messages, key=lambda one: (-one.priority, one.id))

    def ids(self, limit: int = 100) -> list[int]:
        return [one.id for one in self.claim(limit)]

    def close(self) -> None:
        self.session.close()

    def lowest(self, queue: int | None = None, priority: int = 0) -> int:
        """Where the next claim begins, unless it is a full scan."""
        position = self.policy._positions[self.queue if queue is None else queue]
        return position.lowest_ids(full_scan=False)[9 - priority]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("scan_position", "ended_transactions", "claim_policy", "polling"):
        monkeypatch.setattr(f"celery_postgres.consumer.{module}.time", clock)
    return clock


@pytest.fixture
def consumer(module_database: Any, clock: Clock) -> Iterator[Consumer]:
    with closing(Consumer(module_database.url, clock, 2)) as consumer:
        yield consumer


@pytest.fixture
def publisher(module_database: Any, consumer: Consumer) -> Iterator[Callable[[], Publisher]]:
    def make() -> Publisher:
        consumer.publishers.append(Publisher(module_database.url))
        return consumer.publishers[-1]

    yield make
    for one in consumer.publishers:
        one.connection.close()


@pytest.fixture
def flow(consumer: Consumer, publisher: Callable[[], Publisher]) -> Callable[[float], list[int]]:
    """``flow(seconds)``: time passes, and a busy worker takes what is published meanwhile. Returns all that it took."""
    busy = publisher()

    def run(seconds: float, queue: int | None = None, priority: int = 0) -> list[int]:
        taken = []
        for _ in range(round(seconds / 0.1)):
            busy.publish(consumer.queue if queue is None else queue, priority=priority)
            busy.commit()
            consumer.clock.now += 0.1
            taken += consumer.ids(1)  # a claim that had room for more would be followed by a full scan
        return taken

    return run


# -- one case each


def test_an_id_is_passed_soon_when_nobody_else_publishes(consumer: Consumer, flow: Any) -> None:
    taken = flow(1)
    assert consumer.lowest() in taken[-4:]


def test_a_reader_does_not_hold_it_back(consumer: Consumer, publisher: Any, flow: Any) -> None:
    reader = publisher()
    reader.connection.set_session(isolation_level="REPEATABLE READ")
    reader.run("SELECT count(*) FROM kombu_message")
    taken = flow(1)
    assert consumer.lowest() in taken[-4:]


def test_a_writer_holds_it_back_for_two_seconds(consumer: Consumer, publisher: Any, flow: Any) -> None:
    flow(0.5)
    publisher().run("SELECT txid_current()")
    before = flow(0.1)[-1]
    flow(1.7)
    assert consumer.lowest() <= before
    taken = flow(1)
    assert consumer.lowest() in taken[-4:], "by now it is a long one"


@pytest.mark.parametrize("save", [False, True], ids=["plain", "savepoint"])
def test_a_publisher_that_commits_late_is_not_passed(consumer: Consumer, publisher: Any, flow: Any, save: bool) -> None:
    late = publisher()
    flow(0.5)
    if save:
        late.run("SAVEPOINT one")
    (message,) = late.publish(consumer.queue)
    if save:
        late.run("RELEASE one")
    flow(1.5)
    late.commit()
    assert message in flow(0.1)
    assert not consumer.full_scan


def test_a_publisher_with_the_latest_number_is_not_passed(consumer: Consumer, publisher: Any, flow: Any) -> None:
    """No snapshot lists it before a later transaction has ended."""
    first, late = publisher(), publisher()
    flow(0.5)
    first.run("SELECT txid_current()")
    (message,) = late.publish(consumer.queue)
    seen = first.publish(consumer.queue)
    first.commit()
    assert consumer.ids(1) == seen
    flow(1.5)
    late.commit()
    assert message in flow(0.1)
    assert not consumer.full_scan


def test_a_bulk_that_commits_late_comes_before_what_followed(consumer: Consumer, publisher: Any, flow: Any) -> None:
    late = publisher()
    flow(0.5)
    messages = late.publish(consumer.queue, 20)
    flow(1.5)
    late.commit()
    taken = [one for _ in range(4) for one in consumer.ids(5)]
    assert taken == messages


def test_a_transaction_of_minutes_is_found_by_a_full_scan(consumer: Consumer, publisher: Any, flow: Any) -> None:
    late = publisher()
    late.run("SELECT txid_current()")
    flow(60)
    (message,) = late.publish(consumer.queue)
    flow(30)
    late.commit()
    assert message in flow(ScanPosition.FULL_SCAN_S + 0.2)


def test_a_notification_finds_it_at_once(consumer: Consumer, publisher: Any, flow: Any) -> None:
    late = publisher()
    (message,) = late.publish(consumer.queue)
    flow(30)
    late.commit()
    consumer.policy.notify()
    assert message in flow(0.1)


def test_what_a_full_scan_leaves_comes_before_what_followed(consumer: Consumer, publisher: Any, flow: Any) -> None:
    late = publisher()
    messages = late.publish(consumer.queue, 10)
    flow(30)
    late.commit()
    publisher_of_more = publisher()
    publisher_of_more.publish(consumer.queue, 10)
    publisher_of_more.commit()
    consumer.policy.notify()
    taken = [one for _ in range(10) for one in consumer.ids(1)]
    assert taken == messages
    passed = consumer.lowest()
    consumer.ids(1)
    assert consumer.lowest() > passed, "the dead entries in between are read once, and not again"


def test_a_priority_that_a_full_scan_did_not_reach_is_scanned_later(
    consumer: Consumer, publisher: Any, flow: Any
) -> None:
    late = publisher()
    messages = late.publish(consumer.queue, 3)
    flow(30)
    late.commit()
    high = publisher()
    high.publish(consumer.queue, 5, priority=9)
    high.publish(consumer.queue, 5)
    high.commit()
    consumer.policy.notify()
    assert {one.priority for one in consumer.claim(5)} == {9}
    assert consumer.full_scan
    assert consumer.ids(3) == messages
    assert not consumer.full_scan


def test_a_queue_that_a_full_scan_did_not_reach_is_scanned_later(consumer: Consumer, publisher: Any, flow: Any) -> None:
    first, second = consumer.queues
    late = publisher()
    messages = {first: late.publish(first, 3), second: late.publish(second, 3)}
    flow(15, first)
    flow(15, second)
    late.commit()
    for queue in consumer.queues:
        more = publisher()
        more.publish(queue, 5)
        more.commit()
    consumer.policy.notify()
    taken = consumer.ids(3) + consumer.ids(3)
    assert sorted(taken) == sorted(messages[first] + messages[second])


def test_a_queue_without_messages_is_not_read_again_and_again(consumer: Consumer, publisher: Any, flow: Any) -> None:
    first, second = consumer.queues
    last = flow(1, first)[-1]
    more = publisher()
    more.publish(second, 60)
    more.commit()
    for _ in range(30):  # each is full, and the first queue is read before the second in every other
        consumer.clock.now += 0.1
        consumer.ids(1)
    assert consumer.lowest(first) == last


def test_a_row_that_was_locked_is_found_by_a_full_scan(consumer: Consumer, publisher: Any, flow: Any) -> None:
    one, operator = publisher(), publisher()
    (message,) = one.publish(consumer.queue)
    one.commit()
    operator.run("UPDATE kombu_message SET revoked = true WHERE id = %s", message)
    assert message not in flow(5)
    operator.rollback()
    assert message in flow(ScanPosition.FULL_SCAN_S + 0.2)


def test_a_released_message_comes_back_whatever_its_id(consumer: Consumer, flow: Any) -> None:
    (message,) = flow(0.1)
    (claim,), consumer.acks = consumer.acks, []
    flow(10)
    consumer.store.release([claim], 3)
    assert message in flow(0.1)
    (claim,), consumer.acks = [one for one in consumer.acks if one[0] == message], []
    consumer.store.release([claim], 3, failed=True)
    assert message in flow(0.1), "also after a failure"


def test_ids_that_were_drawn_long_before_cost_a_full_scan(consumer: Consumer, publisher: Any, flow: Any) -> None:
    """As after `ALTER SEQUENCE … CACHE 2`, where each session draws ids in advance."""
    one = publisher()
    drawn = [id for (id,) in one.run("SELECT nextval('message_id_sequence') FROM generate_series(1, 2)")]
    one.commit()
    flow(10)
    for message in drawn:
        one.run("INSERT INTO kombu_message (id, queue_id, payload) VALUES (%s, %s, '{}')", message, consumer.queue)
    one.commit()
    assert set(drawn) <= set(flow(ScanPosition.FULL_SCAN_S + 0.2))


def test_a_restored_database_is_scanned_from_the_first_id(consumer: Consumer, flow: Any) -> None:
    """Its transactions and ids have lower numbers, and none of what was known of the old ones holds."""
    flow(3)
    assert consumer.lowest()
    consumer.policy._ended.next_id += 1_000_000
    flow(0.1)
    assert consumer.lowest() == 0
    assert consumer.policy._ended.next_id < 1_000_000


@pytest.mark.parametrize("long", [True, False], ids=["a long transaction has ended", "nothing to find"])
def test_how_often_a_slow_full_scan_comes(consumer: Consumer, publisher: Any, flow: Any, long: bool) -> None:
    late = publisher()
    if long:
        (message,) = late.publish(consumer.queue)
    flow(10)
    consumer.policy.notify()
    flow(0.1)
    consumer.policy._full_scan_took = 1.0  # as over millions of dead entries
    if long:
        late.commit()
        assert message in flow(20.2)
    else:
        flow(99)
        assert consumer.policy._full_scan_took == 1.0, "there was none"
        flow(1.2)
    assert consumer.policy._full_scan_took == 0.0


def test_one_full_scan_that_had_to_wait_makes_none_too_expensive(
    consumer: Consumer, publisher: Any, flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine or network makes any claim slow now and then. The next message would wait ten seconds."""
    late = publisher()
    (message,) = late.publish(consumer.queue)
    flow(30)
    claim = consumer.store.claim

    def slow(*given: Any, **options: Any) -> Any:
        consumer.clock.now += 0.5
        return claim(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(consumer.store, "claim", slow)
        consumer.policy.notify()
        consumer.ids()
        assert consumer.full_scan
    late.commit()
    consumer.policy.notify()
    assert message in consumer.ids()


def test_which_transactions_are_waited_for(clock: Clock) -> None:
    ended = EndedTransactions()
    ended.note(Snapshot(10, (7,)), clock.now)
    assert ended.below == 7
    clock.now += EndedTransactions.LONG_S
    ended.note(Snapshot(20, (7, 15)), clock.now)
    assert ended.below == 15
    ended.note(Snapshot(21, (7,)), clock.now)
    assert ended.below == 21
    assert not ended.long_ended
    ended.note(Snapshot(22), clock.now)
    assert ended.long_ended
    ended.note(Snapshot(22), clock.now)
    assert ended.long_ended, "until the next full scan"
    ended.note(Snapshot(22), clock.now, full_scan=True)
    assert not ended.long_ended


def test_a_snapshot_is_read_from_postgresqls_text() -> None:
    assert Snapshot.parse("10:20:10,14,15") == Snapshot(20, (10, 14, 15))
    assert Snapshot.parse("10:10:") == Snapshot(10, ())


def test_a_claim_that_had_room_is_followed_by_one_after_which_the_consumer_sleeps(
    consumer: Consumer, publisher: Any
) -> None:
    one = publisher()
    one.publish(consumer.queue, 3)
    one.commit()
    consumer.clock.now += 1
    consumer.ids()
    consumer.policy._scan_fully = False
    one.publish(consumer.queue, 3)
    one.commit()
    consumer.ids(3)
    assert consumer.ids() == []
    assert not consumer.full_scan, "the claim before was full"
    one.publish(consumer.queue, 3)
    one.commit()
    assert len(consumer.ids()) == 3
    assert consumer.ids() == []
    assert consumer.full_scan
    assert not consumer.policy.is_due(polls=True)


# -- all of it, in any order


class Scene(RuleBasedStateMachine):
    """Some publishers, an operator who locks rows, and a consumer with a queue and two priorities."""

    url: ClassVar[str]
    clock: ClassVar[Clock]

    def __init__(self) -> None:
        super().__init__()
        self.consumer = Consumer(self.url, self.clock)
        self.publishers = [Publisher(self.url) for _ in range(3)]
        self.operator = Publisher(self.url)
        self.consumer.publishers = [*self.publishers, self.operator]
        #: Their transactions, until they end: when each wrote first.
        self.began: dict[Publisher, float] = {}
        self.priorities: dict[int, int] = {}
        #: What can be claimed, by when its transaction began.
        self.waiting: dict[int, float] = {}
        self.locked: set[int] = set()
        #: What a full scan could have claimed; nothing may be claimed before it any more.
        self.certain: set[int] = set()
        self.claimed: list[Claim] = []

    # -- what can happen

    @rule(number=st.integers(0, 2), count=st.sampled_from([1, 1, 1, 20]), priority=st.sampled_from([0, 9]))
    def publish(self, number: int, count: int, priority: int) -> None:
        publisher = self.publishers[number]
        self.began.setdefault(publisher, self.clock.now)
        self.priorities |= dict.fromkeys(publisher.publish(self.consumer.queue, count, priority), priority)

    @rule(number=st.integers(0, 2), count=st.sampled_from([1, 5]))
    def publish_and_think_better(self, number: int, count: int) -> None:
        publisher = self.publishers[number]
        self.began.setdefault(publisher, self.clock.now)
        publisher.run("SAVEPOINT one")
        written = publisher.written.copy()
        publisher.publish(self.consumer.queue, count)
        publisher.run("ROLLBACK TO one")
        publisher.written = written

    @rule(number=st.integers(0, 2))
    def write_something_else(self, number: int) -> None:
        self.began.setdefault(self.publishers[number], self.clock.now)
        self.publishers[number].run("SELECT txid_current()")

    @rule(number=st.integers(0, 2))
    def commit(self, number: int) -> None:
        began = self.began.pop(self.publishers[number], 0.0)
        self.waiting |= dict.fromkeys(self.publishers[number].commit(), began)

    @rule(number=st.integers(0, 2))
    def roll_back(self, number: int) -> None:
        self.began.pop(self.publishers[number], None)
        self.publishers[number].rollback()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def lock(self, data: st.DataObject) -> None:
        message = data.draw(st.sampled_from(sorted(self.waiting)))
        self.operator.run("SELECT FROM kombu_message WHERE id = %s FOR UPDATE", message)
        self.locked.add(message)
        self.certain.discard(message)

    @rule()
    def unlock(self) -> None:
        self.operator.rollback()
        self.locked.clear()

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 3.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def notify(self) -> None:
        self.consumer.policy.notify()

    @precondition(lambda self: self.consumer.acks)
    @rule()
    def release(self) -> None:
        """What Celery has returned: it has a time from now on, and is claimed by that."""
        self.consumer.store.release(self.consumer.acks, 100)
        self.waiting |= dict.fromkeys([-message for message, _ in self.consumer.acks], self.clock.now)
        self.consumer.acks = []
        self.certain.clear()  # a claim may bring scheduled messages instead of others, and then does not tell

    @rule(limit=st.sampled_from([1, 1, 3, 100]), seconds=st.sampled_from([0.0, 0.01, 0.3]))
    def claim(self, limit: int, seconds: float) -> None:
        self.clock.now += seconds
        messages = self.consumer.claim(limit)
        free = {one for one in self.waiting if one > 0 and one not in self.locked}
        if self.consumer.full_scan:
            self.certain |= free
        if any(one.available_at is not None for one in messages):
            self.certain.clear()
        brought = {one.id for one in messages if one.available_at is None}
        for one in messages:
            self.waiting.pop(one.id if one.available_at is None else -one.id)
        self.certain -= brought
        for priority in (0, 9):
            highest = max((one for one in brought if self.priorities[one] == priority), default=0)
            passed_over = {one for one in free - brought if self.priorities[one] == priority and one < highest}
            assert not passed_over & self.certain, "a full scan had come to it"
        assert messages or not (self.consumer.full_scan and free), "a full scan finds what there is"

    # -- what must hold

    def teardown(self) -> None:
        """All that waits is claimed within one full scan, and what its claims leave."""
        try:
            self.operator.rollback()
            for publisher in self.publishers:
                publisher.rollback()
            self.clock.now += ScanPosition.FULL_SCAN_S + 0.1
            left = {abs(one) for one in self.waiting}
            taken = [one for _ in range(3) for one in self.consumer.ids(1000)]
            assert sorted(taken) == sorted(left)
        finally:
            for one in self.consumer.publishers:
                one.connection.close()
            self.consumer.close()


def test_nothing_is_passed_over_after_a_full_scan(database: Any, clock: Clock) -> None:
    run_machine(Scene, examples=25, steps=60, given={"url": database.url, "clock": clock})
