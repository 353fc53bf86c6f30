"""The limits of fair queues, who uses them, and what they mean for one tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from celery_postgres.database.counting import CAP, Count
from celery_postgres.database.limit_store import KeyStatus, Limit, LimitStore
from celery_postgres.database.limit_view_store import BusyKey, LimitRow, LimitViewStore, Waits, WaitStore
from celery_postgres.database.reader import Reader
from celery_postgres.readmodel.pages import CursorError

#: Rows of one page of keys, and busy keys that are shown.
PAGE, _BUSIEST = 50, 20
#: Waits of tasks that ended longer ago say nothing of now.
_LATELY = timedelta(hours=1)
_FIRST = (-(2**63), "")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of fair queues.

    Attributes:
        fair: the names of the fair queues.
        of_queues: the limits of whole queues and of each key, by queue.
        busiest: the keys of which most runs, with what holds for them.
        of_keys: a page of the limits of single keys, by queue and key.
        next: the cursor of its next page; None on the last.
    """

    fair: tuple[str, ...]
    of_queues: tuple[LimitRow, ...]
    busiest: tuple[BusyKey, ...]
    of_keys: tuple[LimitRow, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How one key, such as a tenant, stands in a queue.

    Attributes:
        queue: the queue.
        fair: whether it is fair: only there are limits.
        concurrency, per_second, burst, refuse: what holds for the key, by its own row or that of each key.
        running, waiting: its claimed and its ready messages.
        opens_in_s: seconds until the rate allows another message; None if it allows one now.
        oldest_s: for how many seconds its next message has waited; None if none waits.
        waits: how long its last ended tasks waited; None if none ended in the last hour.
        queue_paused: whether an operator has paused the queue, whose wait then is not known.
    """

    queue: str
    fair: bool
    concurrency: int | None
    per_second: float | None
    burst: int | None
    refuse: bool | None
    running: Count
    waiting: Count
    opens_in_s: float | None
    oldest_s: float | None
    waits: Waits | None
    queue_paused: bool = False

    @property
    def cause(self) -> str | None:
        """Which limit of the key lets its tasks wait: `paused`, `concurrency` or `rate`; None if none does.

        `queue` if the whole queue is paused: then a new one waits, too.
        """
        if self.queue_paused:
            return "queue"
        if not self.waiting:
            return None
        if self.concurrency == 0 or (self.per_second == 0 and not self.refuse):
            return "paused"
        if self.concurrency is not None and self.running.number >= self.concurrency:
            return "concurrency"
        return "rate" if self.opens_in_s and not self.refuse else None

    @property
    def expected_s(self) -> float | None:
        """About how long a new task waits; None if nothing is known."""
        if self.queue_paused:
            return None
        known = [one for one in (self.oldest_s, None if self.waits is None else self.waits.median_s) if one is not None]
        return max(known, default=None)


class LimitViews:
    """Reads limits.

    Args:
        reader: of the broker's database.
        results: of the database of the results.
    """

    def __init__(self, reader: Reader, results: Reader) -> None:
        self._views, self._limits, self._waits = LimitViewStore(reader), LimitStore(reader), WaitStore(results)

    def limits(self, queue: str | None = None, cursor: str | None = None) -> Limits:
        """All limits, or those of one queue.

        Raises:
            CursorError: the cursor is not one of a page.
        """
        after = _FIRST if cursor is None else _place(cursor)
        keys = self._views.of_keys(queue, after, PAGE + 1)
        following = f"{keys[PAGE - 1].queue_id}.{keys[PAGE - 1].key}" if len(keys) > PAGE else None
        return Limits(
            tuple(self._views.fair_queues()),
            tuple(self._views.of_queues(queue)),
            tuple(self._views.busiest(queue, _BUSIEST)),
            tuple(keys[:PAGE]),
            following,
        )

    def limit(self, queue: str, key: str | None) -> Limit | None:
        """The row of a key, of each key (`*`) or of the whole queue; None if there is none."""
        return next(iter(self._limits.limits(queue, key=key or "", cap=CAP)), None)

    def standing(self, key: str, tenant: UUID | None = None, fair: Sequence[str] | None = None) -> tuple[Standing, ...]:
        """How a key stands in each fair queue where it has limits or messages, and how long a tenant's tasks wait.

        Args:
            key: the key.
            tenant: the tenant whose ended tasks say how long new ones wait.
            fair: `Limits.fair`, where that was read already.
        """
        waits = {} if tenant is None else self._waits.of_tenant(tenant, datetime.now(UTC) - _LATELY)
        oldest = self._views.oldest_of(key)
        queues = self._views.fair_queues() if fair is None else fair
        found = {one.queue: one for one in self._limits.status(queues, key, cap=CAP)}
        paused = self._views.paused([*found, *waits])
        standings = [
            replace(_standing(queue, found.get(queue), oldest, waits), queue_paused=queue in paused)
            for queue in sorted({*found, *waits})
        ]
        return tuple(one for one in standings if _matters(one))


def _standing(queue: str, one: KeyStatus | None, oldest: dict[str, float], waits: dict[str, Waits]) -> Standing:
    if one is None:
        none, wait = Count(0), waits.get(queue)
        return Standing(queue, False, None, None, None, None, none, none, None, None, wait)
    return Standing(
        queue,
        True,
        one.concurrency,
        one.per_second,
        one.burst,
        one.refuse,
        Count.of(one.running),
        Count.of(one.waiting),
        one.opens_in_s,
        oldest.get(queue),
        waits.get(queue),
    )


def _matters(one: Standing) -> bool:
    limited = one.concurrency is not None or one.per_second is not None
    return limited or bool(one.running) or bool(one.waiting) or one.waits is not None


def _place(cursor: str) -> tuple[int, str]:
    number, _, key = cursor.partition(".")
    if not number.isascii() or not number.isdecimal() or len(number) > 18 or "\0" in key:
        raise CursorError("the cursor is not one that this list has given: start from the first page")
    return int(number), key
