"""The last hour by the minute: what finished, how long tasks waited, what failed; of a queue also what came in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from celery_postgres.database.histogram import percentile
from celery_postgres.database.minute_view_store import Depth, Minute

MINUTES = 60
_MINUTE = timedelta(minutes=1)
#: Whole minutes by which it is told whether a queue grows or drains.
_TREND = 5


@dataclass(frozen=True, slots=True)
class LastHour:
    """Sixty minutes, the oldest first; the last one is not over yet.

    Attributes:
        minutes: what workers have counted; a minute in which they counted nothing has zeros.
        depths: of a queue, what waited as each began; None where it is not known, and for all queues together.
        came: of a queue, how many messages became ready in each; None where that is not known.
    """

    minutes: tuple[Minute, ...]
    depths: tuple[Depth | None, ...]
    came: tuple[int | None, ...]

    @property
    def whole(self) -> Sequence[Minute]:
        """The minutes that are over."""
        return self.minutes[:-1]

    @property
    def latest(self) -> Minute:
        """The latest minute that is over."""
        return self.minutes[-2]

    @property
    def finished(self) -> int:
        return sum(one.finished for one in self.minutes)

    @property
    def failed(self) -> int:
        return sum(one.failed for one in self.minutes)

    def waited_s(self, share: float) -> float | None:
        """The wait that this share of the tasks of the last five minutes did not exceed."""
        lately = self.minutes[-_TREND:]
        return percentile([sum(counts) for counts in zip(*(one.waited for one in lately), strict=True)], share)

    @property
    def grows_by(self) -> float | None:
        """By how many messages the queue grew in a minute, of the last five that are known; below zero if it drains."""
        known = [one for one in self.depths[-_TREND - 1 :] if one is not None and not one.waiting.or_more]
        if len(known) < 2 or known[0].at == known[-1].at:
            return None
        return (known[-1].waiting.number - known[0].waiting.number) / ((known[-1].at - known[0].at) / _MINUTE)

    @property
    def out(self) -> float:
        """How many tasks began in a minute, of the last five that are over."""
        lately = self.whole[-_TREND:]
        return sum(one.started for one in lately) / len(lately)


def begins(now: datetime) -> datetime:
    """When the hour begins that ends now."""
    return now.astimezone(UTC).replace(second=0, microsecond=0) - (MINUTES - 1) * _MINUTE


def last_hour(now: datetime, minutes: Iterable[Minute], depths: Iterable[Depth] = ()) -> LastHour:
    """The last hour, whole: also of the minutes in which nothing was counted."""
    since = begins(now)
    times = [since + number * _MINUTE for number in range(MINUTES)]
    counted = {one.at: one for one in minutes}
    known = {one.at: one for one in depths}
    filled = tuple(counted.get(at) or Minute(at) for at in times)
    waiting = tuple(known.get(at) for at in times)
    pairs = zip(filled, waiting, [*waiting[1:], None], strict=True)
    return LastHour(filled, waiting, tuple(_came(*pair) for pair in pairs))


def _came(minute: Minute, before: Depth | None, after: Depth | None) -> int | None:
    """How many messages became ready in a minute: what began, and what more waits than before."""
    if before is None or after is None or before.waiting.or_more or after.waiting.or_more:
        return None
    return max(0, minute.started + after.waiting.number - before.waiting.number)
