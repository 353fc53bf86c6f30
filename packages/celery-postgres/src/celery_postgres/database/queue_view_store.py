"""The rows that views of queues show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from celery_postgres.database.claim_view_store import Claims, ClaimViewStore
from celery_postgres.database.counting import CAP, Count
from celery_postgres.database.store import Runner, Store

#: Dead letters of so many seconds are recent.
RECENT_S = 900.0
#: Queues of one view: those of the application before the internal ones.
MOST_QUEUES = 1_000
#: Counting every queue to `CAP` would read millions of entries where 300 queues have thousands each. So all are counted
#: to 100; of those with more, the 60 whose oldest message is the oldest, to 1,000; and of these, six to 10,000.
_TIERS = ((101, None), (1_001, 60), (CAP, 6))


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
        growth_per_min: by how many waiting messages it grows in a minute, below zero while it drains; None where this
            process has not looked for ten seconds yet, or counting stopped.
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
    growth_per_min: float | None = None

    @property
    def empty_in_s(self) -> float | None:
        """In how many seconds nothing waits any more, if it goes on like this; None while it does not drain."""
        if self.growth_per_min is None or self.growth_per_min >= 0:
            return None
        return self.waiting.number / -self.growth_per_min * 60


@dataclass(frozen=True, slots=True)
class DeadTotal:
    """How many dead letters there are, and how many of the newest 10,000 came in the last 15 minutes."""

    count: Count
    recent: int

    @classmethod
    def of(cls, queues: Iterable[DeadOfQueue]) -> DeadTotal:
        """The sum over all queues."""
        found = list(queues)
        return cls(Count.of(sum(one.count for one in found)), sum(one.recent for one in found))


@dataclass(frozen=True, slots=True)
class DeadOfQueue:
    """How many of the newest 10,000 dead letters came from a queue, and how many of these in the last 15 minutes."""

    queue: str | None
    count: int
    recent: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How attempts at tasks of one name ended: those that succeeded or failed.

    Attributes:
        first_failure: when the minute of the first failure began.
        ran: how long they ran, and those that were retried too, by classes of `histogram`.
    """

    name: str
    ended: int
    failed: int
    first_failure: datetime | None
    ran: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """How the database fares.

    Attributes:
        oldest_transaction_s: the age of the oldest transaction of a client that this role may see.
        dead_rows, live_rows: of the message table, as the server estimates them.
        vacuumed_s: how long ago a vacuum of it ended; None if none ever did.
    """

    oldest_transaction_s: float | None
    dead_rows: int | None
    live_rows: int | None
    vacuumed_s: float | None


class QueueViewStore(Store):
    """Read queues, and what problems are found by."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._claims = ClaimViewStore(runner)

    def claims(self) -> Claims:
        """What is claimed, of which `FleetViewStore.workers` makes use too."""
        return self._claims.claims()

    def queues(self, dead: Sequence[DeadOfQueue] = (), claims: Claims | None = None) -> list[Queue]:
        """All queues, at most `MOST_QUEUES`: those of the application by name, then the internal ones.

        Args:
            dead: what `dead_by_queue` has returned.
            claims: what is claimed; read here by default.
        """
        found: dict[str, Queue] = {}
        claims = self.claims() if claims is None else claims
        letters = {one.queue: one.count for one in dead}
        names: list[str] | None = None
        for cap, most in _TIERS:
            if most is not None:
                names = [one.name for one in sorted(found.values(), key=_age, reverse=True) if _is_longer(one)][:most]
                if not names:
                    break
            found |= {one.name: one for one in self._queues(names, cap, claims, letters)}
        return list(found.values())

    def queue(self, name: str, known: Queue | None = None) -> Queue | None:
        """The queue of that name.

        Args:
            known: the queue as `queues` returned it. What runs, its dead letters and its growth are taken from it: each
                of the first two is read for all queues at once, 10 ms where much is claimed or dead.
        """
        if known is None:
            dead = {one.queue: one.count for one in self.dead_by_queue()}
            return next(iter(self._queues([name], CAP, self.claims(), dead)), None)
        return next(
            (
                replace(
                    one,
                    running=known.running,
                    dead_letters=known.dead_letters,
                    growth_per_min=known.growth_per_min,
                )
                for one in self._queues([name], CAP, Claims(), {})
            ),
            None,
        )

    def exists(self, name: str) -> bool:
        """Whether there is a queue of that name."""
        return bool(self._run("find_queue", queue=name))

    def _queues(self, names: list[str] | None, cap: int, claims: Claims, dead: dict[str | None, int]) -> list[Queue]:
        rows = self._run("view_queues", names=names, cap=cap, queues=MOST_QUEUES)
        found = [
            Queue(
                name,
                internal,
                paused,
                Count.of(waiting, cap),
                oldest_s,
                Count.of(scheduled, cap),
                claims.of_queue(number),
                consumers,
                dead.get(name, 0),
            )
            for number, name, internal, paused, waiting, oldest_s, scheduled, consumers in rows
        ]
        return self._with_pauses(found)

    def _with_pauses(self, queues: list[Queue]) -> list[Queue]:
        """The same queues; those that are paused with since when and by whom, as far as that was recorded."""
        paused = [one.name for one in queues if one.paused]
        known = {name: (at, by) for name, at, by in self._run("view_pauses", names=paused)} if paused else {}
        return [
            replace(one, paused_since=known[one.name][0], paused_by=known[one.name][1]) if one.name in known else one
            for one in queues
        ]

    def blocked(self) -> dict[str, datetime]:
        """The names of the tasks that no worker may begin, and since when."""
        return dict(self._run("blocked_tasks"))

    def dead_by_queue(self) -> list[DeadOfQueue]:
        """The newest 10,000 dead letters by queue."""
        return [DeadOfQueue(*row) for row in self._run("view_dead_by_queue", cap=CAP, recent_s=RECENT_S)]

    # -- what problems are found by

    def health(self) -> Health:
        """How the database fares."""
        (row,) = self._run("view_health")
        return Health(*row)


def is_counted(queue: Queue) -> bool:
    """Whether counting it alone would find no more: its messages are counted to the end, or as far as any are."""
    return all(not one.or_more or one.number >= CAP - 1 for one in (queue.waiting, queue.scheduled))


def _is_longer(queue: Queue) -> bool:
    return queue.waiting.or_more or queue.scheduled.or_more


def _age(queue: Queue) -> float:
    return queue.oldest_s or 0.0
