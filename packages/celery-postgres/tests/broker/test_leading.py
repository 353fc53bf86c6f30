"""A consumer that claims again and again: publishers wake nobody then, and others sleep soon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_postgres.consumer.lead import LEAD_S
from celery_postgres.database.envelope import Envelope, parameters
from celery_postgres.database.message_store import ClaimResult, MessageStore
from celery_postgres.database.session import Session
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.tables import run
from environment.waiting import wait_until

LEADER, OTHER = 7, 8


@pytest.fixture
def session(module_database: Any) -> Iterator[Session]:
    """In a transaction, for which time stands still."""
    made = Session(module_database.url)
    made.script("BEGIN")
    yield made
    made.script("ROLLBACK")
    made.close()


class Queue:
    """A queue that two consumers consume, both awake, and none of them leads."""

    def __init__(self, session: Session) -> None:
        self.session, self.store = session, MessageStore(session)
        session.script("INSERT INTO kombu_queue (id, name) VALUES (1000000, 'led')")
        for consumer in (LEADER, OTHER):
            self.add(consumer)

    def add(self, consumer: int) -> None:
        self.session.script(
            f"INSERT INTO kombu_consumer (id, hostname, pid) OVERRIDING SYSTEM VALUE VALUES ({consumer}, 'a', 1);"  # noqa: S608
            "INSERT INTO kombu_subscription (queue_id, consumer_id, asleep, slept_at)"
            f" VALUES (1000000, {consumer}, false, now() - interval '1 second')"
        )

    def publish(self) -> float | None:
        """Returns what tells the publisher whether to wake."""
        sent = parameters(Envelope("{}", 0, None, None, None, None, "yes"))
        ((_, slept_s),) = self.session.run("publish", queue="led", **sent)
        return slept_s

    def claim(self, consumer: int, **relied: Any) -> ClaimResult:
        lowest_ids = {1000000: [0] * 10}
        return self.store.claim(consumer, lowest_ids, limit=10, may_sleep=True, brief_for_s=LEAD_S, **relied)

    def woken(self) -> int:
        ((_, count),) = self.session.run("wake", queues=[1000000])
        return count


@pytest.fixture
def queue(session: Session) -> Queue:
    return Queue(session)


def test_a_claim_of_brief_work_leads_and_others_are_not_woken(queue: Queue) -> None:
    queue.claim(OTHER)
    assert queue.publish() == 0  # the other has fallen asleep just now
    assert len(queue.claim(LEADER, brief=1).messages) == 1
    assert queue.publish() == pytest.approx(LEAD_S)
    assert queue.woken() == 0


def test_a_claim_of_more_does_not_lead_any_longer(queue: Queue) -> None:
    queue.claim(OTHER)
    queue.publish()
    queue.claim(LEADER, brief=1)
    for _ in range(2):
        queue.publish()
    assert len(queue.claim(LEADER, brief=1).messages) == 2
    assert queue.publish() == 0
    assert queue.woken() == 1


def test_who_polls_for_a_while_leads_until_it_sleeps(queue: Queue) -> None:
    queue.claim(OTHER)
    assert not queue.claim(LEADER, polls_for_s=LEAD_S).relieved
    assert queue.publish() == pytest.approx(LEAD_S)
    assert queue.woken() == 0
    queue.claim(LEADER)
    queue.claim(LEADER)
    assert queue.publish() == 0
    assert queue.woken() == 1


def test_where_another_leads_a_consumer_sleeps(queue: Queue) -> None:
    queue.claim(LEADER, polls_for_s=LEAD_S)
    assert queue.claim(OTHER, polls_for_s=LEAD_S).relieved
    assert not queue.claim(LEADER, polls_for_s=LEAD_S).relieved
    queue.session.script("DELETE FROM kombu_subscription WHERE queue_id = 1000000 AND consumer_id = 7")
    assert not queue.claim(OTHER, polls_for_s=LEAD_S).relieved


def test_who_leads_in_one_of_two_queues_relieves_nobody_of_both(queue: Queue) -> None:
    queue.claim(LEADER, polls_for_s=LEAD_S)
    queue.session.script("INSERT INTO kombu_queue (id, name) VALUES (1000001, 'alone')")
    queue.session.script(
        f"INSERT INTO kombu_subscription (queue_id, consumer_id, asleep) VALUES (1000001, {OTHER}, false)"  # noqa: S608
    )
    both = {1000000: [0] * 10, 1000001: [0] * 10}
    assert not queue.store.claim(OTHER, both, limit=10, may_sleep=True, polls_for_s=LEAD_S).relieved


def test_a_clock_that_was_set_back_leaves_nobody_leading(queue: Queue) -> None:
    queue.claim(OTHER)
    queue.session.script(
        f"UPDATE kombu_subscription SET slept_at = now() + interval '1 hour' WHERE consumer_id = {LEADER}"  # noqa: S608
    )
    assert queue.publish() == 0
    assert queue.woken() == 1
    assert not queue.claim(OTHER, polls_for_s=LEAD_S).relieved


def test_the_heartbeat_wakes_another_when_a_task_takes_longer_than_those_before(
    client: Client, listener: Callable[[str], Session], module_database: Any, request: pytest.FixtureRequest
) -> None:
    """Publishers that relied on its next claim have woken nobody."""
    name = request.node.name
    inbox = client.consume(name)
    sleeper = listener(name)
    run(
        module_database.url,
        "UPDATE kombu_subscription SET asleep = true FROM kombu_queue"  # noqa: S608
        f" WHERE kombu_queue.id = queue_id AND kombu_queue.name = '{name}'",
    )
    buffer = inbox.channel.buffer
    buffer.policy.lead.taken()
    assert buffer.leads
    buffer.policy.lead._relied_until = time.monotonic() - 1
    buffer.heartbeat.wake.set()
    wait_until(lambda: bool(sleeper.notifications()), DEADLINE_S, "the other consumer to be woken")
    assert buffer.overdue() == []


def test_a_leader_that_consumes_no_longer_wakes_another(client: Client, listener: Callable[[str], Session]) -> None:
    """Publishers that relied on its next claim have woken nobody."""
    inbox = client.consume("left")
    sleeper = listener("left")
    sleeper.script("UPDATE kombu_subscription SET asleep = true")
    inbox.channel.buffer.policy.lead.taken()
    inbox.consumer.cancel()
    wait_until(lambda: bool(sleeper.notifications()), DEADLINE_S, "the other consumer to be woken")
