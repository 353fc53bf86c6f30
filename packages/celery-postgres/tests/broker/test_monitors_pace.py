"""A monitor that gets many events claims them together, and is not notified of each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from celery import Celery

from celery_postgres.consumer.batch_size import BatchSize
from celery_postgres.consumer.claim_policy import ClaimPolicy
from celery_postgres.consumer.event_pace import EventPace
from celery_postgres.consumer.outlet import Subscription
from celery_postgres.database.message_store import ClaimedMessage, ClaimResult
from celery_postgres.database.session import Session
from celery_postgres.database.snapshot import Snapshot
from environment.testkit.client import DEADLINE_S
from environment.testkit.tables import scalar
from environment.waiting import wait_until

_EVENTS = 200


class Monitor:
    """A receiver of all events, and the statements that this process sends."""

    def __init__(self, app: Celery, connection: Any) -> None:
        self.seen: list[Any] = []
        self.connection = connection
        receiver = app.events.Receiver(connection, handlers={"*": self.seen.append})
        (self.consumer,) = receiver.get_consumers(lambda **options: app.amqp.Consumer(connection, **options), None)
        self.consumer.consume()

    def sees(self, count: int) -> bool:
        """Whether it has seen so many events."""
        with contextlib.suppress(TimeoutError):
            self.connection.drain_events(timeout=0.2)
        return len(self.seen) >= count


@pytest.fixture
def app(make_app: Callable[[str], Celery], plain_database: Any) -> Celery:
    """An application with a database of its own."""
    return make_app(plain_database.url)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that this process sends."""
    sent: list[str] = []
    send = Session.run

    def noted(self: Session, name: str, **parameters: Any) -> Any:
        sent.append(name)
        return send(self, name, **parameters)

    monkeypatch.setattr(Session, "run", noted)
    return sent


@pytest.fixture
def monitor(app: Celery) -> Iterator[Monitor]:
    with app.connection_for_read() as connection:
        yield Monitor(app, connection)


def asleep(url: str) -> bool:
    return bool(scalar(url, "SELECT asleep FROM kombu_subscription"))


def test_a_monitor_claims_many_events_at_once(
    app: Celery, monitor: Monitor, statements: list[str], plain_database: Any
) -> None:
    url = plain_database.url
    wait_until(lambda: monitor.sees(0) and asleep(url), DEADLINE_S, "the monitor to sleep")
    with app.events.default_dispatcher() as dispatcher:
        for _ in range(_EVENTS):
            dispatcher.send("worker-heartbeat", freq=2)
    statements.clear()
    wait_until(lambda: monitor.sees(_EVENTS), DEADLINE_S, "all events")
    assert statements.count("claim") <= _EVENTS // 10
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 0


def test_a_monitor_that_gets_many_events_is_awake_and_then_sleeps_again(
    app: Celery, monitor: Monitor, plain_database: Any
) -> None:
    url = plain_database.url
    wait_until(lambda: monitor.sees(0) and asleep(url), DEADLINE_S, "the monitor to sleep")
    with app.events.default_dispatcher() as dispatcher:
        for _ in range(EventPace.MANY):
            dispatcher.send("worker-heartbeat", freq=2)
        wait_until(lambda: monitor.sees(EventPace.MANY) and not asleep(url), DEADLINE_S, "the monitor to be awake")
        wait_until(lambda: monitor.sees(0) and asleep(url), DEADLINE_S, "the monitor to sleep again")
        dispatcher.send("worker-heartbeat", freq=2)
        wait_until(lambda: monitor.sees(EventPace.MANY + 1), DEADLINE_S, "an event after that")


@pytest.mark.parametrize("events", [1, BatchSize.AUTO_ACK_LIMIT])
def test_a_monitor_waits_until_the_next_claim_is_due(events: int) -> None:
    """Its loop would turn without a pause otherwise: after a full batch, and in the first moments."""
    policy = ClaimPolicy()
    subscription = Subscription("celeryev", cast(Any, None), auto_ack=True, queue_id=1)
    plan = policy.plan([], 0, [subscription], polls=True, only_events=True)
    messages = [ClaimedMessage(number, 1, 1, 0, 0, None, False, False, None, "") for number in range(1, events + 1)]
    policy.succeeded(plan, ClaimResult(messages, None, False, Snapshot(1)))
    policy._polling.next = 0.0
    assert not policy.is_due(polls=True)
    assert 0 < policy.pause(polls=True, without_notifications=False) <= EventPace.PAUSE_S


def test_a_monitor_costs_one_row_for_each_event(app: Celery, monitor: Monitor, plain_database: Any) -> None:
    url = plain_database.url
    wait_until(lambda: monitor.sees(0) and asleep(url), DEADLINE_S, "the monitor to sleep")
    with app.events.default_dispatcher() as dispatcher, app.connection_for_read() as second:
        other = Monitor(app, second)
        for _ in range(10):
            dispatcher.send("worker-heartbeat", freq=2)
        assert scalar(url, "SELECT count(*) FROM kombu_message") == 20
        wait_until(lambda: monitor.sees(10), DEADLINE_S, "the events of one")
        wait_until(lambda: other.sees(10), DEADLINE_S, "the events of the other")
