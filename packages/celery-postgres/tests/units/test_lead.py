"""How long the heartbeat watches a consumer that publishers rely on, by what its claims have brought."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from celery_postgres.consumer.claim_policy import ClaimPolicy
from celery_postgres.consumer.lead import LEAD_S, WATCHED_S, Lead
from celery_postgres.consumer.outlet import Subscription
from celery_postgres.database.flow import Turns
from celery_postgres.database.message_store import ClaimedMessage, ClaimResult
from celery_postgres.database.snapshot import Snapshot

QUEUE = 1


class Consumer:
    """The policy of a consumer that sees many messages published, which take 1 ms each."""

    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock, self.policy, self._brought = clock, ClaimPolicy(), 0
        self.policy.add_queue(QUEUE)
        self.policy._polling._between = 0.001
        self.policy.batch_size._average = 0.001

    def claim(self, brings: int, turns: Turns | None = None, **result: Any) -> None:
        queues: Any = [Subscription("led", SimpleNamespace(), auto_ack=False, queue_id=QUEUE)]  # type: ignore[arg-type]
        plan = self.policy.plan(queues, 100, [], polls=True, turns=turns)
        first = self._brought + 1
        self._brought += brings
        messages = [
            ClaimedMessage(number, QUEUE, 2, 0, 0, None, False, False, None, "{}", 0.0)
            for number in range(first, self._brought + 1)
        ]
        self.policy.succeeded(plan, replace(ClaimResult(messages, None, False, Snapshot(100, frozenset())), **result))

    def overdue(self) -> bool:
        """After the time for which publishers rely on it."""
        self.clock.now += LEAD_S
        return self.policy.lead.overdue()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    for module in ("lead", "polling", "claim_policy"):
        monkeypatch.setattr(f"celery_postgres.consumer.{module}.time", clock)
    return clock


@pytest.fixture
def consumer(clock: SimpleNamespace) -> Consumer:
    return Consumer(clock)


def test_a_claim_that_does_not_follow_in_time_is_overdue_once(clock: SimpleNamespace) -> None:
    lead = Lead()
    assert not lead.is_watched
    assert not lead.overdue()
    lead.taken()
    assert lead.is_watched
    assert not lead.overdue()
    clock.now += LEAD_S
    assert lead.overdue()
    assert not lead.overdue()
    lead.taken()
    lead.ended()
    clock.now += LEAD_S
    assert not lead.overdue()
    clock.now += WATCHED_S
    assert not lead.is_watched


def test_a_claim_of_brief_work_is_to_be_followed_by_another(consumer: Consumer) -> None:
    consumer.claim(brings=1)
    assert consumer.overdue()


def test_a_claim_by_turns_takes_nothing_back_so_the_next_one_is_still_overdue(consumer: Consumer) -> None:
    """Its task may take hours, and publishers have read that this consumer leads in its other queues."""
    consumer.claim(brings=1)
    consumer.claim(brings=1, turns=Turns(QUEUE, ()))
    assert consumer.overdue()


def test_a_poll_that_publishers_rely_on_is_overdue_if_a_task_with_a_time_begins_instead(consumer: Consumer) -> None:
    consumer.claim(brings=0)
    assert consumer.overdue()


def test_publishers_that_commit_after_more_work_has_come_rely_on_a_claim_that_may_be_overdue(
    consumer: Consumer,
) -> None:
    consumer.claim(brings=1)
    consumer.claim(brings=50)
    assert consumer.overdue()


def test_who_sleeps_polls_for_those_that_have_relied_on_it(consumer: Consumer) -> None:
    consumer.claim(brings=1)
    for _ in range(10):
        consumer.claim(brings=0)
    assert not consumer.overdue()


def test_who_sleeps_because_another_leads_is_relied_on_by_nobody(consumer: Consumer) -> None:
    consumer.claim(brings=0, relieved=True)
    assert not consumer.overdue()
