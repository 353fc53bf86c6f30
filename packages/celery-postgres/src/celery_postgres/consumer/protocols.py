"""What the heartbeat needs of the prefetch buffers, which need the heartbeat."""

from __future__ import annotations

from typing import Protocol

from celery_postgres.database.message_store import Claim


class Buffer(Protocol):
    """The prefetch buffer of one Kombu connection. The heartbeat's thread calls these methods."""

    @property
    def holds_messages(self) -> bool:
        """Whether claimed messages wait for their delivery."""
        ...

    @property
    def is_resting(self) -> bool:
        """Whether the heartbeat should check for messages on its behalf."""
        ...

    @property
    def sees_all_next(self) -> bool:
        """Whether its next claim is to see all messages that are ready."""
        ...

    @property
    def leads(self) -> bool:
        """Whether the heartbeat should look whether its next claim is overdue."""
        ...

    def overdue(self) -> list[int]:
        """The queues of which publishers relied on a claim that has not come; each time once."""
        ...

    def slept(self) -> None:
        """Publishers have been told that this consumer sleeps."""
        ...

    def notify(self) -> None:
        """There may be messages to claim."""
        ...

    def claims_ended(self) -> None:
        """Claims that were carried have been settled: a limit may allow more."""
        ...

    def take_stale(self) -> list[Claim]:
        """Remove the messages of a buffer whose connection makes no progress; returns their claims."""
        ...

    def take_halted(self, queues: frozenset[int], tasks: frozenset[str]) -> list[Claim]:
        """Remove the messages of paused queues and blocked tasks; returns their claims."""
        ...

    def claims(self) -> set[Claim]:
        """The claims of all messages in the buffer."""
        ...

    def lose(self) -> None:
        """Other consumers have taken over everything that was claimed."""
        ...

    def outdate(self, queues: set[str]) -> None:
        """These queues are gone, or have other ids."""
        ...
