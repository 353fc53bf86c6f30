"""What consumers count: tasks that started and ended, by minute, queue and name of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_postgres.database.counting import CAP
from celery_postgres.database.histogram import CLASSES
from celery_postgres.database.store import Store

DAY_S = 86_400.0
#: The minutes of all queues and names together are kept for the chart of a week.
WEEK_S = 8 * DAY_S
#: Seconds after which the rows of several consumers become one. A row that is written again after that counts twice.
MERGED_AFTER_S = 180.0


@dataclass(frozen=True, slots=True)
class Retention:
    """For how long counts, and what people did, are kept.

    Attributes:
        minutes_s: after so many seconds a minute becomes a part of its hour; 0 counts nothing.
        hours_s: after so many seconds an hour is deleted.
        actions_s: the same of a row of `console_action`; None keeps all.
    """

    minutes_s: float = 2 * DAY_S
    hours_s: float = 60 * DAY_S
    actions_s: float | None = 365 * DAY_S


def _empty() -> list[int]:
    return [0] * CLASSES


@dataclass(slots=True)
class MinuteRow:
    """What one consumer has counted of one task's name in one queue, in one minute.

    Attributes:
        minute: since 1970.
        consumer: who counted; 0 stands for several.
        started: attempts that began.
        done, failed, retried: attempts that ended, and how. One that is retried is not also failed.
        waited: of those that began, how many waited how long since they could run, by the classes of `histogram`.
        ran: of those that ended, how many ran how long.
    """

    minute: int
    consumer: int
    queue: str
    name: str
    started: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    waited: list[int] = field(default_factory=_empty)
    ran: list[int] = field(default_factory=_empty)


class MinuteStore(Store):
    """Write what was counted, and add up what is old."""

    #: The rows of one statement.
    BATCH = 1000

    def write(self, rows: Sequence[MinuteRow]) -> float:
        """Write the rows as they are now. Returns the database's clock, in seconds since 1970."""
        ((clock, _),) = self._run(
            "write_minutes",
            minutes=[row.minute for row in rows],
            consumers=[row.consumer for row in rows],
            queues=[row.queue for row in rows],
            names=[row.name for row in rows],
            counts=[count for row in rows for count in (row.started, row.done, row.failed, row.retried)],
            waited=[count for row in rows for count in row.waited],
            ran=[count for row in rows for count in row.ran],
        )
        return float(clock)

    def note_depths(self, queues: Sequence[int]) -> None:
        """Note how much waits in these queues, unless that is noted in this minute already."""
        self._run("write_depths", queues=list(queues), cap=CAP)

    def tidy(self, kept: Retention) -> None:
        """Add up the rows of several consumers, and the minutes of an hour, and delete old hours."""
        self._repeat("merge_minutes", MERGED_AFTER_S)
        self._repeat("minutes_to_hours", kept.minutes_s)
        self._repeat("drop_minute_sums", kept.minutes_s, whole=False)
        self._repeat("drop_minute_sums", max(kept.minutes_s, min(kept.hours_s, WEEK_S)), whole=True)
        self._repeat("drop_depths", kept.minutes_s)
        self._repeat("drop_hours", kept.hours_s)

    def _repeat(self, name: str, after_s: float, **more: Any) -> None:
        count = self.BATCH
        while count == self.BATCH:
            ((count,),) = self._run(name, after_s=after_s, limit=self.BATCH, **more)
