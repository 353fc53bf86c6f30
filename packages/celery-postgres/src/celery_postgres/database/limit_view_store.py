"""Limits of fair queues, as rows that the console shows, at a bounded cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from celery_postgres.database.counting import Count
from celery_postgres.database.store import Store

#: What waits of a key or a queue is counted to 100, what runs to 1,000: most limits are lower.
CAP, RUNNING_CAP = 101, 1_001
#: Queues of one view, and claimed messages that are read of each to find its busiest keys.
MOST_QUEUES, SCANNED = 100, 2_000
#: Keys at their limits that are listed.
_MOST_HELD = 50
#: Results of a tenant by which its waits are known.
_ENDED = 200


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A row of limits; None where there is none.

    Attributes:
        queue_id, queue: the fair queue.
        key: whose limits they are; `*` for each key, None for the whole queue.
        concurrency, per_second, burst, refuse, weight, changed_at: as of `Limit`.
        running, waiting: claimed and ready messages of the key; of all keys for `*` and for the whole queue.
        opens_in_s: seconds until the rate allows another message; None if it allows one now, and for `*`.
    """

    queue_id: int
    queue: str
    key: str | None
    concurrency: int | None
    per_second: float | None
    burst: int
    refuse: bool
    weight: int | None
    changed_at: datetime
    running: Count
    waiting: Count
    opens_in_s: float | None


@dataclass(frozen=True, slots=True)
class BusyKey:
    """A key of which messages run, with the limits that hold for it, its own or those of each key.

    Attributes:
        queue: the fair queue.
        key: the key, if it is a tenant's; None where only its hash is known.
        key_hash: what metrics call it.
        concurrency, per_second, burst, refuse: what holds for it; None where there is no limit.
        running, waiting: its claimed and its ready messages.
        opens_in_s: seconds until the rate allows another message; None if it allows one now.
    """

    queue: str
    key: str | None
    key_hash: str
    concurrency: int | None
    per_second: float | None
    burst: int | None
    refuse: bool | None
    running: Count
    waiting: Count
    opens_in_s: float | None


@dataclass(frozen=True, slots=True)
class KeyAtLimit:
    """A key whose messages wait because of its own limit.

    Attributes:
        queue: the fair queue.
        key: the key, if it is a tenant's; None where only its hash is known.
        key_hash: what metrics call it.
        concurrency, per_second: the limits that hold for it; None where there is none.
        running, waiting: its claimed and its ready messages.
        waited_s: for how many seconds its next message has waited.
    """

    queue: str
    key: str | None
    key_hash: str
    concurrency: int | None
    per_second: float | None
    running: Count
    waiting: Count
    waited_s: float


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the last ended tasks of a tenant waited in a queue: the median in seconds, and of how many tasks."""

    median_s: float
    tasks: int


class LimitViewStore(Store):
    """Read limits, the keys that use them, and what a tenant waits."""

    def of_queues(self, queue: str | None = None) -> list[LimitRow]:
        """The limits of whole queues and of each key, of all fair queues or of one."""
        rows = self._run("view_limits", queue=queue, queues=MOST_QUEUES, running_cap=RUNNING_CAP, cap=CAP)
        return [_row(*row) for row in rows]

    def of_keys(self, queue: str | None, after: tuple[int, str], limit: int) -> list[LimitRow]:
        """The limits of single keys, by the queue's id and the key, after this place."""
        rows = self._run(
            "view_limits_of_keys",
            queue=queue,
            after_queue=after[0],
            after_key=after[1],
            running_cap=RUNNING_CAP,
            cap=CAP,
            limit=limit,
        )
        return [_row(*row) for row in rows]

    def busiest(self, queue: str | None, limit: int) -> list[BusyKey]:
        """The keys with the most running messages, the most first."""
        rows = self._run("view_busy_keys", queue=queue, queues=MOST_QUEUES, scanned=SCANNED, cap=CAP, limit=limit)
        return [
            BusyKey(*(*known, Count.of(running, SCANNED), Count.of(waiting, CAP), opens_in_s))
            for *known, running, waiting, opens_in_s in rows
        ]

    def at_limit(self, waited_s: float) -> list[KeyAtLimit]:
        """The keys that their own limits hold back and whose next message has waited for so long, the longest first."""
        rows = self._run(
            "view_keys_at_limit", waited_s=waited_s, queues=MOST_QUEUES, scanned=RUNNING_CAP, cap=CAP, limit=_MOST_HELD
        )
        return [
            KeyAtLimit(*(*known, Count.of(running, RUNNING_CAP), Count.of(waiting, CAP), waited_s))
            for *known, running, waiting, waited_s in rows
        ]

    def fair_queues(self) -> list[str]:
        """The names of the fair queues, at most `MOST_QUEUES`."""
        return [name for (name,) in self._run("view_fair_queues", queues=MOST_QUEUES)]

    def paused(self, queues: Sequence[str]) -> frozenset[str]:
        """Those of these queues that are paused."""
        return frozenset(name for (name,) in self._run("view_paused", names=list(queues)))

    def oldest_of(self, key: str) -> dict[str, float]:
        """For how many seconds the next message of a key has waited, by queue."""
        return dict(self._run("view_oldest_of_key", key=key, queues=MOST_QUEUES))


class WaitStore(Store):
    """Read how long tasks have waited, from the database of the results."""

    def of_tenant(self, tenant: UUID, since: datetime) -> dict[str, Waits]:
        """How long the tenant's last ended tasks waited, by queue."""
        given = since.astimezone(UTC).replace(tzinfo=None)
        rows = self._run("view_waits_of_tenant", tenant=str(tenant), since=given, scanned=_ENDED, limit=MOST_QUEUES)
        return {queue: Waits(median_s, tasks) for queue, median_s, tasks in rows}


def _row(queue_id: int, queue: str, key: str, *more: Any) -> LimitRow:
    *limits, running, waiting, opens_in_s = more
    counts = Count.of(running, RUNNING_CAP), Count.of(waiting, CAP)
    return LimitRow(*(queue_id, queue, key or None, *limits, *counts, opens_in_s))
