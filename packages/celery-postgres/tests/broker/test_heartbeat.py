"""The heartbeat under faults: what it releases, which consumers it rescues, and that its thread survives."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2
import pytest

import celery_postgres
from celery_postgres.consumer.heartbeat import Heartbeat
from celery_postgres.consumer.prefetch import PrefetchBuffer
from celery_postgres.database.message_store import Claim, MessageStore
from celery_postgres.database.session import Session
from celery_postgres.database.wake import Wake
from environment.temporary import TemporaryCluster
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.deadlines import SWEPT_S
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until

READY = """
    SELECT count(*) FROM kombu_message AS message JOIN kombu_queue AS queue ON queue.id = message.queue_id
    WHERE queue.name = :queue AND message.visible
"""


def test_what_could_not_be_given_back_is_given_back_later(
    module_database: Any, client: Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[int] = []
    release = MessageStore.release

    def cut_once(self: MessageStore, claims: Sequence[Claim], max_failures: int, **options: Any) -> int:
        if claims and not refused:
            refused.append(len(claims))
            raise psycopg2.OperationalError("the link was cut")
        return release(self, claims, max_failures, **options)

    for number in range(5):
        client.publish(number, queue)
    monkeypatch.setattr(MessageStore, "release", cut_once)
    # All five are claimed. The one that is not acknowledged is a long task, behind which the others go back.
    client.consume(queue).take(1)
    wait_until(lambda: refused, DEADLINE_S, "the buffer to be given back")
    wait_until(lambda: scalar(module_database.url, READY, queue=queue) == 4, SWEPT_S, "the others to be ready")
    assert refused == [4]


def test_what_is_claimed_by_nobody_at_all_is_found(database: Any, connect: Callable[..., Client], queue: str) -> None:
    """A claim that went out in the moment in which its consumer had no number any more."""
    client = connect(database.url)
    client.publish("x", queue)
    run(database.url, "UPDATE kombu_message SET visible = false, consumer_id = 0, claimed_at = now()")
    client.consume(f"{queue}-other")
    wait_until(lambda: scalar(database.url, READY, queue=queue) == 1, SWEPT_S, "it to be ready")


def test_an_error_that_nobody_foresaw_does_not_end_it(
    module_database: Any, client: Client, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = client.consume(queue)
    consumer = inbox.channel.buffer.heartbeat.consumer  # type: ignore[attr-defined]
    beat, failed = Heartbeat._beat, []

    def fail_once(self: Heartbeat, session: Any) -> bool:
        if self.consumer == consumer and not failed:
            failed.append(beats())
            raise ValueError("filedescriptor out of range in select()")
        return beat(self, session)

    def beats() -> Any:
        return scalar(module_database.url, "SELECT beat FROM kombu_consumer WHERE id = :id", id=consumer)

    monkeypatch.setattr(Heartbeat, "_beat", fail_once)
    wait_until(lambda: failed, DEADLINE_S, "the error")
    wait_until(lambda: beats() > failed[0] + 1, DEADLINE_S, "the beat to go on")
    assert "The heartbeat has failed" in caplog.text


def test_it_beats_while_it_tidies_up(
    database: Any, connect: Callable[..., Client], queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages by the million take longer than the others wait for a sign of life."""
    client = connect(database.url)
    for number in range(60):
        client.publish(number, queue, expiration=0.001)
    beats: list[int] = []
    pause = threading.Event()
    execute = Session.run

    def slowly(self: Session, name: str, **parameters: Any) -> Any:
        if name == "drop_expired_messages":
            beats.append(scalar(database.url, "SELECT max(beat) FROM kombu_consumer"))
            pause.wait(0.1)
        return execute(self, name, **parameters)

    monkeypatch.setattr(Session, "run", slowly)
    monkeypatch.setattr(MessageStore, "BATCH", 1)
    client.consume(f"{queue}-other")
    wait_until(lambda: rows_of(database.url, queue) == 0, SWEPT_S, "the messages to be gone")
    assert len(beats) >= 60
    assert beats[59] >= beats[0] + 3  # in 6 s, one of 1.2 s


def test_it_waits_for_any_descriptor(request: pytest.FixtureRequest) -> None:
    """A worker with hundreds of children has numbers that select does not take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"this machine allows a process {hard} descriptors, which are too few for one that select refuses")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    end, other = os.pipe()
    high = os.dup2(end, 1500)
    wake = Wake()
    try:
        assert wake.wait(0, high) == []
        os.write(other, b"x")
        assert wake.wait(5, high) == [high]
        wake.set()
        assert sorted(wake.wait(0, high)) == sorted([wake.fileno(), high])
    finally:
        wake.close()
        for descriptor in (end, other, high):
            os.close(descriptor)


def test_hup_stores_what_waits_to_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """It replaces the process before what is registered for its end."""
    from celery import signals

    from celery_postgres.results import writers

    class Waiting:
        flushed = 0.0

        def flush(self, seconds: float) -> bool:
            self.flushed = seconds
            return True

    waiting = Waiting()
    monkeypatch.setattr(writers._writers.value, "known", {("batches", ("a", "database")): waiting})
    signals.worker_shutdown.send(sender=None)
    assert waiting.flushed == writers.BatchWriter.PATIENCE_S


@pytest.mark.parametrize("no_ack", [True, False])
def test_a_consumer_without_a_database_tries_now_and_then(
    private_cluster: TemporaryCluster, connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, no_ack: bool
) -> None:
    """Also where nothing is acknowledged, as of events and orders: it would keep an event loop turning."""
    celery_postgres.create_schema(private_cluster.url())
    client = connect(private_cluster.url())
    consumer = client.consume("queue", no_ack=no_ack)
    asked: list[float] = []
    deliver_next = PrefetchBuffer.deliver_next

    def counted(buffer: PrefetchBuffer, force: bool = False) -> bool:
        asked.append(1)
        return deliver_next(buffer, force)

    monkeypatch.setattr(PrefetchBuffer, "deliver_next", counted)
    private_cluster.stop("fast")
    for _ in range(5):
        with pytest.raises(TimeoutError):
            consumer.connection.drain_events(timeout=1)
    assert len(asked) < 60
    private_cluster.start()
    client.publish("x", "queue")
    consumer.take(1)
