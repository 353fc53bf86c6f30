"""The prefetch buffers that one heartbeat looks after."""

from __future__ import annotations

import weakref

from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.protocols import Buffer
from celery_postgres.database.message_store import Claim, MessageStore


class Buffers:
    """One buffer for each Kombu connection that consumes. A buffer whose connection is gone leaves by itself."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()

    def __bool__(self) -> bool:
        return bool(self._buffers)

    def add(self, buffer: Buffer) -> None:
        self._buffers.add(buffer)

    def discard(self, buffer: Buffer) -> None:
        self._buffers.discard(buffer)

    @property
    def hold_messages(self) -> bool:
        return any(buffer.holds_messages for buffer in list(self._buffers))

    @property
    def any_resting(self) -> bool:
        return any(buffer.is_resting for buffer in list(self._buffers))

    @property
    def see_all_next(self) -> bool:
        """Whether the next claim of each sees all messages that are ready."""
        return all(buffer.sees_all_next for buffer in list(self._buffers))

    @property
    def any_leads(self) -> bool:
        return any(buffer.leads for buffer in list(self._buffers))

    def wake_others(self, messages: MessageStore) -> None:
        """Wake other consumers where publishers relied on a claim that does not come."""
        overdue = {queue for buffer in list(self._buffers) for queue in buffer.overdue()}
        if overdue:
            messages.wake(sorted(overdue))

    def slept(self) -> None:
        for buffer in list(self._buffers):
            buffer.slept()

    def notify(self) -> None:
        for buffer in list(self._buffers):
            buffer.notify()

    def claims_ended(self) -> None:
        """Claims that were carried have been settled."""
        for buffer in list(self._buffers):
            buffer.claims_ended()

    def claims(self) -> set[Claim]:
        """The claims of all buffered messages."""
        return {claim for buffer in list(self._buffers) for claim in buffer.claims()}

    def release_stale(self, messages: MessageStore) -> bool:
        """Release what no thread delivers; whether messages remain buffered."""
        buffered = False
        for buffer in list(self._buffers):
            stale = buffer.take_stale()
            if stale:
                self._claims.release(stale, messages)
            buffered = buffered or buffer.holds_messages
        return buffered

    def release_halted(self, messages: MessageStore, queues: frozenset[int], tasks: frozenset[str]) -> None:
        """Release what is buffered of paused queues and blocked tasks."""
        for buffer in list(self._buffers):
            halted = buffer.take_halted(queues, tasks)
            if halted:
                self._claims.release(halted, messages)

    def outdate(self, queues: set[str]) -> None:
        """These queues are gone, or have other ids."""
        for buffer in list(self._buffers):
            buffer.outdate(queues)

    def lose(self) -> None:
        """Other consumers have taken over everything that was claimed."""
        for buffer in list(self._buffers):
            buffer.lose()
