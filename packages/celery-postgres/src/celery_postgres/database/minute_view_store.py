"""The rows that views show of what workers have counted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from celery_postgres.database.counting import CAP, Count
from celery_postgres.database.histogram import CLASSES, percentile
from celery_postgres.database.queue_view_store import Outcomes
from celery_postgres.database.store import Store

#: Tasks whose outcomes are read.
_MOST_NAMES = 1_000
_NOTHING = (0,) * CLASSES


@dataclass(frozen=True, slots=True)
class Minute:
    """What workers have counted in one minute, in one queue or in all.

    Attributes:
        at: when it began.
        started: attempts that began.
        done, failed, retried: attempts that ended, and how.
        waited: of how many tasks the wait was of which class of `histogram`.
    """

    at: datetime
    started: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    waited: tuple[int, ...] = _NOTHING

    @property
    def finished(self) -> int:
        """Tasks that succeeded or failed."""
        return self.done + self.failed

    def waited_s(self, share: float) -> float | None:
        """The wait that this share of the tasks that began did not exceed."""
        return percentile(self.waited, share)


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages waited in a queue as a minute began, and for how long the oldest had."""

    at: datetime
    waiting: Count
    oldest_s: float | None


class MinuteViewStore(Store):
    """Read what workers have counted."""

    def minutes(self, since: datetime, queue: str | None = None) -> list[Minute]:
        """The minutes from then on in which something began or ended in a queue, or in any, the oldest first."""
        if queue is None:
            latest = datetime.now(UTC) + timedelta(days=1)
            return sorted(self.counts(since, latest, latest)[0], key=lambda one: one.at)
        rows = self._run("view_minutes", since=since, queue=queue)
        return [_minute(*row) for row in rows]

    def steps(self, since: datetime, step: timedelta, queue: str | None = None) -> list[Minute]:
        """The same of longer steps, from minutes and from the hours that older minutes have become."""
        given = {"since": since, "step_s": step.total_seconds()}
        rows = (
            self._run("view_steps", before=datetime.now(UTC) + timedelta(days=1), **given)
            if queue is None
            else self._run("view_steps_of_queue", queue=queue, **given)
        )
        return [_minute(*row) for row in rows]

    def counts(self, since: datetime, before: datetime, lately: datetime) -> tuple[list[Minute], list[Outcomes]]:
        """The minutes of this time in which something began or ended in any queue, in no order, and how tasks ended
        since `lately`, by name: both are read at once."""
        minutes, outcomes = [], []
        rows = self._run("view_counts", since=since, before=before, lately=lately, most=_MOST_NAMES)
        for at, name, first, started, done, failed, retried, waited, ran in rows:
            if name is None:
                minutes.append(Minute(at, started, done, failed, retried, _whole(waited)))
            else:
                outcomes.append(Outcomes(name, done + failed, failed, first, _whole(ran)))
        return minutes, outcomes

    def depths(self, since: datetime, step: timedelta, queue: str) -> list[Depth]:
        """How much waited in a queue in the first minute of each step that is known, the oldest first."""
        rows = self._run("view_depths", since=since, step_s=step.total_seconds(), queue=queue)
        return [Depth(at, Count.of(waiting, CAP), oldest_s) for at, waiting, oldest_s in rows]

    def outcomes(self, since: datetime, before: datetime) -> list[Outcomes]:
        """How tasks ended in this time, by name."""
        rows = self._run("view_outcomes", since=since, before=before, most=_MOST_NAMES)
        return [Outcomes(name, ended, failed, first, _whole(ran)) for name, ended, failed, first, ran in rows]


def _minute(at: datetime, started: int, done: int, failed: int, retried: int, waited: list[int | None]) -> Minute:
    """The driver makes a `Decimal` of the sum of an hour's numbers, which are bigints."""
    return Minute(at, int(started), int(done), int(failed), int(retried), _whole(waited))


def _whole(counts: list[int | None]) -> tuple[int, ...]:
    """A row that another program wrote may have too few."""
    return tuple(int(one or 0) for one in counts)
