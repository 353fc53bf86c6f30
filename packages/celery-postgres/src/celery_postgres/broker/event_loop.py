"""Delivering messages from the event loop of Celery's worker."""

from __future__ import annotations

import threading
import time
from typing import Any

from celery_postgres.consumer.prefetch import PrefetchBuffer

#: While messages come faster than this, one turn of the event loop delivers several: a turn costs about 50 µs.
TURN_S = 0.001


class EventLoop:
    """Celery's event loop, as far as one transport uses it: it reads the prefetch buffer that is attached to it."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._buffer: PrefetchBuffer | None = None
        self._timer: Any = None
        self._wake_from_threads()

    def attach(self, buffer: PrefetchBuffer) -> None:
        """Deliver the messages of this buffer."""
        self._buffer = buffer
        self._loop.add_reader(buffer.wake.fileno(), self._on_readable)

    def detach(self) -> None:
        """Deliver no more."""
        buffer, self._buffer = self._buffer, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if buffer is not None:
            self._loop.remove(buffer.wake.fileno())

    def _wake_from_threads(self) -> None:
        """Run at once what a thread hands to the loop: `call_soon` alone does not end the loop's `poll()`, and an ack
        would wait for up to a second, with its credit."""
        loop = self._loop
        original = getattr(loop, "_celery_postgres_call_soon", None)
        if original is None:
            original = loop._celery_postgres_call_soon = loop.call_soon
        home = threading.get_ident()

        def call_soon(callback: Any, *arguments: Any) -> Any:
            called = original(callback, *arguments)
            if threading.get_ident() != home and self._buffer is not None:
                self._buffer.wake.set()
            return called

        loop.call_soon = call_soon

    def _on_readable(self) -> None:
        buffer = self._buffer
        if buffer is None:
            return
        buffer.wake.clear()
        until = time.monotonic() + TURN_S
        while buffer.deliver_next():
            if time.monotonic() >= until:
                break
        if self._buffer is None:
            return  # a remote control command has closed the connection
        pause = buffer.pause()
        if pause is not None and pause <= 0:
            # Between two turns the loop runs what was handed to call_soon: the acks.
            buffer.wake.set()
        elif pause is not None:
            self._wake_after(pause, buffer)

    def _wake_after(self, seconds: float, buffer: PrefetchBuffer) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, buffer.wake.set)
