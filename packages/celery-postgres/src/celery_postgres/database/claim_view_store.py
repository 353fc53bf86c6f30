"""What consumers have claimed, by queue and by consumer, for views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from celery_postgres.database.counting import Count
from celery_postgres.database.store import Store

#: Claims that are read to count those of each queue and each consumer.
_READ = 20_001
#: Where counting the claims of one consumer stops.
_OF_ONE = 1_001
_NOTHING = Count(0), None


@dataclass(frozen=True, slots=True)
class Claims:
    """What is claimed.

    Attributes:
        queues: how much of each queue, by its id.
        consumers: how much each consumer has claimed, by its id, and since when the oldest of it.
    """

    queues: Mapping[int, Count] = field(default_factory=dict)
    consumers: Mapping[int, tuple[Count, datetime | None]] = field(default_factory=dict)

    def of_queue(self, number: int) -> Count:
        return self.queues.get(number, Count(0))

    def of_consumer(self, number: int) -> tuple[Count, datetime | None]:
        return self.consumers.get(number, _NOTHING)


class ClaimViewStore(Store):
    """Read what is claimed: once for the views of queues and of workers."""

    def claims(self) -> Claims:
        """What is claimed now, of the first 20,000 claims by queue, and of each consumer up to 1,000."""
        rows = self._run("view_claims", cap=_READ)
        queues = {queue: count for queue, _, count, _ in rows if queue is not None}
        or_more = sum(queues.values()) >= _READ
        # Of so many, those of one consumer may be missing, and are counted by the index for each.
        of_consumers = self._run("view_claims_of_consumers", cap=_OF_ONE) if or_more else rows
        return Claims(
            {queue: Count(count, or_more) for queue, count in queues.items()},
            {
                consumer: (Count.of(count, _OF_ONE), oldest)
                for _, consumer, count, oldest in of_consumers
                if consumer is not None
            },
        )
