"""The rows that views of queues, workers and schedules show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from celery_postgres.database.counting import CAP, Count
from celery_postgres.database.store import Store

#: Queues of one view: those of the application before the internal ones.
MOST_QUEUES = 1_000
#: Where counting stops at first. What has more is counted again, up to `CAP`, for the first `RECOUNTED` queues.
FIRST_CAP = 1_001
RECOUNTED = 20
_MOST_SCHEDULES = 1_000
#: Where counting the claims of one worker stops.
_CLAIMS_CAP = 1_001


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as views show it.

    Attributes:
        name: its name, which a producer may have chosen.
        internal: a queue of remote control, events or replies.
        paused: whether consumers claim nothing from it.
        waiting: messages that a consumer could claim now.
        oldest_s: for how many seconds the oldest of them could have been claimed; None without one.
        scheduled: messages whose time has not come.
        running: messages that consumers have claimed: they run, or run next in their process.
        consumers: processes that consume it.
        dead_letters: how many of the newest 10,000 dead letters came from it.
        paused_since, paused_by: when and by whom it was paused, if that is known.
    """

    name: str
    internal: bool
    paused: bool
    waiting: Count
    oldest_s: float | None
    scheduled: Count
    running: Count
    consumers: int
    dead_letters: int
    paused_since: datetime | None = None
    paused_by: str | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that consumes, or one that is gone and has left claims behind: that one has only an id.

    Attributes:
        id: its number in `kombu_consumer`.
        hostname: its machine; None if the process is gone.
        pid: its process id on that machine.
        started_at: when it registered.
        beat: the counter that it raises each second.
        queues: what it consumes, the internal queues included.
        claimed: messages that it has claimed.
        oldest_claim_at: when it claimed the oldest of them.
        lost: whether its row or its session is gone. A worker behind a transaction pooler has no session of its own, so
            only others can tell whether it lives: they remove its row.
    """

    id: int
    hostname: str | None
    pid: int | None
    started_at: datetime | None
    beat: int | None
    queues: tuple[str, ...]
    claimed: Count
    oldest_claim_at: datetime | None
    lost: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """An entry of a beat's schedule: when it was last sent, and how often in all."""

    entry: str
    last_run_at: datetime
    runs: int


@dataclass(frozen=True, slots=True)
class DeadTotal:
    """How many dead letters there are, and how many of the newest 10,000 came in the last 15 minutes."""

    count: Count
    recent: int


class QueueViewStore(Store):
    """Read queues, workers and schedules."""

    def queues(self) -> list[Queue]:
        """All queues, at most `MOST_QUEUES`: those of the application by name, then the internal ones.

        With 300 queues that all have thousands of messages, counting each to `CAP` would read millions of entries: so
        each is counted to `FIRST_CAP`, and only the first `RECOUNTED` of those that have more are counted again.
        """
        found = self._queues(None, FIRST_CAP)
        long = [one.name for one in found if one.waiting.or_more or one.scheduled.or_more or one.running.or_more]
        again = {one.name: one for one in self._queues(long[:RECOUNTED], CAP)} if long else {}
        return [again.get(one.name, one) for one in found]

    def queue(self, name: str) -> Queue | None:
        """The queue of that name."""
        return next(iter(self._queues([name], CAP)), None)

    def _queues(self, names: Sequence[str] | None, cap: int) -> list[Queue]:
        asked = None if names is None else list(names)
        rows = self._run("view_queues", names=asked, cap=cap, queues=MOST_QUEUES)
        return [
            Queue(
                name, internal, paused, Count.of(waiting, cap), oldest_s, Count.of(scheduled, cap),
                Count.of(running, cap), consumers, dead,
            )
            for name, internal, paused, waiting, oldest_s, scheduled, running, consumers, dead in rows
        ]  # fmt: skip

    def dead_total(self) -> DeadTotal:
        """All dead letters, counted to `CAP`."""
        ((count, recent),) = self._run("view_totals")
        return DeadTotal(Count.of(count), recent)

    def workers(self) -> list[Worker]:
        """The processes that consume, lost ones first, then by machine."""
        found = [
            Worker(consumer, None, None, None, None, (), Count(claims), None, lost=True)
            for consumer, claims in self._run("gone_consumers")
        ]
        for consumer, hostname, pid, started_at, beat, queues, claimed, oldest, lives in self._run("view_workers"):
            claims = Count.of(claimed, _CLAIMS_CAP)
            lost = lives is False
            found.append(Worker(consumer, hostname, pid, started_at, beat, tuple(queues or ()), claims, oldest, lost))
        return sorted(found, key=lambda one: not one.lost)

    def schedules(self) -> list[Schedule]:
        """The entries that a beat of this package has seen, by name."""
        return [Schedule(*row) for row in self._run("view_schedules", limit=_MOST_SCHEDULES)]
