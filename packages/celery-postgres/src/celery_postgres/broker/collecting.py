"""Collecting what a thread publishes, for a statement that does more than publish."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from celery_postgres.database.envelope import Addressed, Envelope

_thread = threading.local()


class Collected:
    """The messages that a thread has published, each with its queue."""

    def __init__(self) -> None:
        self.messages: list[Addressed] = []

    def add(self, queue: str, envelope: Envelope) -> None:
        # What follows is published in any case: a result is already waited for.
        self.messages.append((queue, envelope.without_unique_key()))


@contextmanager
def collected() -> Iterator[Collected]:
    """Send nothing that this thread publishes within the block: the caller sends it. Remote control is sent at once."""
    outer = collecting()
    _thread.collected = mine = Collected()
    try:
        yield mine
    finally:
        _thread.collected = outer


def collecting() -> Collected | None:
    """What collects this thread's messages, if anything does."""
    return getattr(_thread, "collected", None)
