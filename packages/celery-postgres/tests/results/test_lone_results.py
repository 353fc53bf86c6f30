"""The result of a worker's only task, which the thread of the task stores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from celery import Celery, states
from celery.app.task import Context

from celery_postgres.consumer.claim_policy import ClaimPolicy
from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.outlet import Subscription
from celery_postgres.database.message_store import Claim, ClaimedMessage, ClaimResult
from celery_postgres.database.result_store import Outcome, ResultStore
from celery_postgres.database.snapshot import Snapshot
from celery_postgres.results.batch_writer import BatchWriter
from celery_postgres.results.lone import LoneResults
from celery_postgres.results.serializer import dump
from celery_postgres.results.write import Write
from environment.testkit.canvas import stored
from environment.testkit.client import DEADLINE_S
from environment.testkit.tables import run, scalar


@pytest.fixture
def by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that have stored a single result; the worker's only task is `only`."""
    from celery.worker import state

    threads: list[str] = []
    original = ResultStore.record_one

    def record_one(self: ResultStore, *arguments: Any) -> None:
        threads.append(threading.current_thread().name)
        original(self, *arguments)

    monkeypatch.setattr(ResultStore, "record_one", record_one)
    monkeypatch.setattr(state, "reserved_requests", [Context(id="only")])
    return threads


def settling(into: list[Claim]) -> Callable[..., None]:
    def settled(claims: Iterable[Claim], *, early: bool = False) -> None:
        into.extend(claims)

    return settled


def a_writer(store: ResultStore, settled: Callable[..., None], sleeper: int | None = None) -> BatchWriter:
    """That of a process which consumes from the database of the results."""
    heartbeat: Any = SimpleNamespace(sleeper=sleeper)
    return BatchWriter(store, settled, lambda chord: None, lambda: 3600.0, lambda: heartbeat)


def only(claim: Claim | None = None) -> Write:
    return Write([Outcome("only", states.SUCCESS, dump(1), None)], claim=claim)


def test_it_is_stored_when_the_task_goes_on(store: ResultStore, url: str, by: list[str]) -> None:
    settled: list[Claim] = []
    writer = a_writer(store, settling(settled))
    writer.add(only((1, 2)))
    assert stored(url, "only") == "SUCCESS"
    assert by == [threading.current_thread().name]
    assert settled == [(1, 2)]
    assert writer.flush(DEADLINE_S)
    writer.stop()


def test_with_another_task_the_writer_stores_it(store: ResultStore, url: str, by: list[str]) -> None:
    from celery.worker import state

    state.reserved_requests.append(Context(id="another"))  # type: ignore[attr-defined]
    writer = a_writer(store, settling([]))
    writer.add(only())
    assert writer.flush(DEADLINE_S)
    assert by == [writer._thread.name]
    writer.stop()


def test_while_commits_take_long_the_writer_stores_it(
    store: ResultStore, by: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoneResults, "BRIEF_S", 0.0)
    writer = a_writer(store, settling([]))
    writer.add(only())
    assert writer.flush(DEADLINE_S)
    assert by == [writer._thread.name]
    writer.stop()


@pytest.mark.parametrize("error", [psycopg2.OperationalError("the link was cut"), SystemExit(1)])
def test_what_could_not_be_stored_there_the_writer_stores(
    store: ResultStore, url: str, by: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    original, errors = ResultStore.record_one, [error]

    def failing_once(self: ResultStore, *arguments: Any) -> None:
        if errors:
            raise errors.pop()
        original(self, *arguments)

    monkeypatch.setattr(ResultStore, "record_one", failing_once)
    settled: list[Claim] = []
    writer = a_writer(store, settling(settled))
    if isinstance(error, SystemExit):  # of a signal's handler
        with pytest.raises(SystemExit):
            writer.add(only((1, 2)))
    else:
        writer.add(only((1, 2)))
    assert writer.flush(DEADLINE_S)
    assert (stored(url, "only"), settled) == ("SUCCESS", [(1, 2)])
    assert by == [writer._thread.name]
    writer.stop()


def test_in_another_thread_the_writer_stores_it(store: ResultStore, by: list[str]) -> None:
    """A task of a pool of threads would take a connection more."""
    writer = a_writer(store, settling([]))
    task = threading.Thread(target=writer.add, args=[only()])
    task.start()
    task.join()
    assert writer.flush(DEADLINE_S)
    assert by == [writer._thread.name]
    writer.stop()


def test_where_nothing_is_consumed_the_writer_stores_it(store: ResultStore, by: list[str]) -> None:
    """The broker is elsewhere, so this is the fallback of a task that has waited for the database already."""
    writer = BatchWriter(store, settling([]), lambda chord: None, lambda: 3600.0)
    writer.add(only())
    assert writer.flush(DEADLINE_S)
    assert by == [writer._thread.name]
    writer.stop()


def test_the_ack_after_it_is_not_sent_again(app: Celery) -> None:
    wakes: list[None] = []
    claims = Claims(app.backend.sessions, 5, lambda: wakes.append(None), lambda: None)
    for claim in ((1, 2), (2, 2)):
        claims.deliver(claim)
        assert claims.carry(claim)
    claims.settled([(1, 2), (3, 2)], early=True)
    claims.ack((1, 2))
    assert (len(claims.pending), wakes, claims.holds((1, 2))) == (0, [], False)
    claims.ack((1, 2))  # of another message, which a restored database has given the same id
    claims.ack((3, 2))
    assert len(claims.pending) == 2


def test_publishers_notify_the_consumer_from_then_on(
    app: Celery, store: ResultStore, url: str, by: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claims next, but the client that has waited may publish before."""
    asleep = "SELECT string_agg(consumer_id || ' ' || asleep, ', ' ORDER BY consumer_id) FROM kombu_subscription"
    run(url, "INSERT INTO kombu_queue (id, name) VALUES (nextval('queue_id_sequence'), 'q')")
    run(url, "INSERT INTO kombu_consumer (id, hostname, pid) OVERRIDING SYSTEM VALUE VALUES (7, 'h', 1), (8, 'h', 2)")
    run(
        url,
        "INSERT INTO kombu_subscription (queue_id, consumer_id, asleep)"
        " SELECT queue.id, consumer.id, false FROM kombu_queue AS queue, kombu_consumer AS consumer",
    )
    writer = a_writer(store, settling([]), 7)
    writer.add(only())
    assert scalar(url, asleep) == "7 true, 8 false"
    writer.stop()


@pytest.mark.parametrize(("messages", "sleeps"), [(1, True), (2, False)], ids=["it had room", "a full batch"])
def test_only_a_claim_that_had_room_lets_the_result_note_that_the_consumer_sleeps(messages: int, sleeps: bool) -> None:
    """The next claim might leave it asleep while a task runs for an hour, and publishers would wake a busy worker."""
    policy = ClaimPolicy()
    policy.add_queue(1)
    subscription: Any = Subscription("q", None, auto_ack=False, queue_id=1)  # type: ignore[arg-type]
    plan = policy.plan([subscription], 2, [], polls=True)
    came = [ClaimedMessage(one, 1, 2, 0, 0, None, None, False, None, "") for one in range(1, messages + 1)]
    policy.succeeded(plan, ClaimResult(came, None, False, Snapshot.parse("1:1:")))
    assert policy.sees_all_next is sleeps
