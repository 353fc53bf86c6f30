"""What greenlets hand to a worker without an event loop is done at once, and not when its poll ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from celery.worker.consumer.consumer import Consumer

from celery_postgres.compat import prompt_acks
from environment.testkit.client import DEADLINE_S, Client


@pytest.mark.parametrize("before", [True, False], ids=["before the wait", "within it"])
def test_what_is_handed_over_ends_the_wait(
    client: Client, queue: str, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    prompt_acks.install()
    inbox = client.consume(queue)
    inbox.take_until(lambda: inbox.channel.buffer.pause() != 0)
    connection = client.connection
    consumer = SimpleNamespace(hub=None, connection=connection, _pending_operations=[])
    waits = threading.Event()
    buffer = connection.transport.buffer
    original = buffer.wake.wait
    monkeypatch.setattr(buffer.wake, "wait", lambda *given: (waits.set(), original(*given))[1])

    def hand_over() -> None:
        assert before or waits.wait(DEADLINE_S)
        Consumer.call_soon(consumer, lambda: done.append("acked"))

    done: list[str] = []
    other = threading.Thread(target=hand_over, daemon=True)
    other.start()
    if before:
        other.join(DEADLINE_S)
    # It raises `socket.timeout` if nothing has ended it.
    connection.drain_events(timeout=DEADLINE_S)
    other.join(DEADLINE_S)
    assert len(consumer._pending_operations) == 1
    assert waits.is_set() is not before


def test_a_consumer_whose_connection_is_lost_or_is_not_ours_is_left_alone() -> None:
    prompt_acks.install()
    for connection in (None, SimpleNamespace(_transport=None), SimpleNamespace(_transport=object())):
        consumer = SimpleNamespace(hub=None, connection=connection, _pending_operations=[])
        Consumer.call_soon(consumer, print)
        assert len(consumer._pending_operations) == 1
    prompt_acks.install()
    assert not hasattr(Consumer.call_soon.__wrapped__, "celery_postgres")  # type: ignore[attr-defined]
