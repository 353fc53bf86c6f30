"""What workers have counted in the last hour, day or week: what finished, how long it waited, and what failed.

Of a queue also what came in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from celery_postgres.database.histogram import percentile
from celery_postgres.database.minute_view_store import Depth, Minute, MinuteViewStore

#: Whole steps by which it is told whether a queue grows or drains.
_TREND = 5
#: For how long a day and a week are good for all who look, and how many of them are kept.
FRESH_S, _MOST_KEPT = 60.0, 100


@dataclass(frozen=True, slots=True)
class Span:
    """A time that charts show.

    Attributes:
        name: what the address calls it.
        steps: how many bars it has.
        minutes: how many minutes one of them is.
        each: what one of them is, in words.
        rate: what a number of one of them is called.
    """

    name: str
    steps: int
    minutes: int
    each: str
    rate: str

    @property
    def step(self) -> timedelta:
        return timedelta(minutes=self.minutes)

    def begins(self, now: datetime) -> datetime:
        """When the span begins that ends now: its last step holds this moment. Steps are whole in UTC."""
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight + (now - midnight) // self.step * self.step - (self.steps - 1) * self.step


HOUR = Span("hour", 60, 1, "minute", "a minute")
DAY = Span("day", 24, 60, "hour", "an hour")
WEEK = Span("week", 56, 180, "3 hours", "in 3 hours")
SPANS = {one.name: one for one in (HOUR, DAY, WEEK)}


@dataclass(frozen=True, slots=True)
class Past:
    """The steps of a span, the oldest first; the last one is not over yet.

    Attributes:
        span: how many there are, and how long each is.
        steps: what workers have counted; a step in which they counted nothing has zeros.
        depths: of a queue, what waited as each began; None where it is not known, and for all queues together.
        came: of a queue, how many messages became ready in each; None where that is not known.
    """

    span: Span
    steps: tuple[Minute, ...]
    depths: tuple[Depth | None, ...]
    came: tuple[int | None, ...]

    @property
    def whole(self) -> Sequence[Minute]:
        """The steps that are over."""
        return self.steps[:-1]

    @property
    def latest(self) -> Minute:
        """The latest step that is over."""
        return self.steps[-2]

    @property
    def finished(self) -> int:
        return sum(one.finished for one in self.steps)

    @property
    def failed(self) -> int:
        return sum(one.failed for one in self.steps)

    def waited_s(self, share: float) -> float | None:
        """The wait that this share of the tasks did not exceed: in the last five minutes, or in the day or week."""
        lately = self.steps[-_TREND:] if self.span is HOUR else self.steps
        return percentile([sum(counts) for counts in zip(*(one.waited for one in lately), strict=True)], share)

    @property
    def grows_by(self) -> float | None:
        """By how many messages the queue grew in a step, of the last five that are known; below zero if it drains."""
        known = [one for one in self.depths[-_TREND - 1 :] if one is not None and not one.waiting.or_more]
        if len(known) < 2 or known[0].at == known[-1].at:
            return None
        return (known[-1].waiting.number - known[0].waiting.number) / ((known[-1].at - known[0].at) / self.span.step)

    @property
    def out(self) -> float:
        """How many tasks began in a step, of the last five that are over."""
        lately = self.whole[-_TREND:]
        return sum(one.started for one in lately) / len(lately)


def past(span: Span, now: datetime, steps: Iterable[Minute], depths: Iterable[Depth] = ()) -> Past:
    """A span, whole: also of the steps in which nothing was counted."""
    since = span.begins(now)
    times = [since + number * span.step for number in range(span.steps)]
    counted = {one.at: one for one in steps}
    known = {one.at: one for one in depths}
    filled = tuple(counted.get(at) or Minute(at) for at in times)
    waiting = tuple(known.get(at) for at in times)
    pairs = zip(filled, waiting, [*waiting[1:], None], strict=True)
    return Past(span, filled, waiting, tuple(_came(*pair) for pair in pairs))


def _came(step: Minute, before: Depth | None, after: Depth | None) -> int | None:
    """How many messages became ready in a step: what began, and what more waits than before."""
    if before is None or after is None or before.waiting.or_more or after.waiting.or_more:
        return None
    return max(0, step.started + after.waiting.number - before.waiting.number)


class PastViews:
    """Reads spans. Those that are longer than an hour are read once a minute, however many look.

    Args:
        store: reads what workers have counted.
    """

    def __init__(self, store: MinuteViewStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str | None], tuple[float, Past]] = {}

    def of(self, span: Span, queue: str | None) -> Past:
        """A span of a queue, or of all of them."""
        if span is HOUR:
            return self._read(span, queue)
        with self._lock:
            read, found = self._kept.get((span.name, queue), (float("-inf"), None))
            if found is not None and time.monotonic() - read < FRESH_S:
                return found
            found = self._read(span, queue)
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[span.name, queue] = time.monotonic(), found
            return found

    def _read(self, span: Span, queue: str | None) -> Past:
        now = datetime.now(UTC)
        since = span.begins(now)
        store = self._store
        steps = store.minutes(since, queue) if span is HOUR else store.steps(since, span.step, queue)
        if queue is None:
            return past(span, now, steps)
        return past(span, now, steps, store.depths(since, span.step, queue))
