"""What consumers count: tasks that started and ended, by minute, queue and name of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from celery_postgres.database.histogram import CLASSES
from celery_postgres.database.store import Store

#: Seconds after which the rows of several consumers become one. A row that is written again after that counts twice.
MERGED_AFTER_S = 600.0


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
        longest_s: for how long the longest one had been running; None if none ran.
        longest_task: its id.
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
    longest_s: float | None = None
    longest_task: str | None = None


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
            longest=[row.longest_s for row in rows],
            tasks=[row.longest_task for row in rows],
        )
        return float(clock)

    def tidy(self, minutes_kept_s: float, hours_kept_s: float) -> None:
        """Add up the rows of several consumers, and the minutes of an hour, and delete old hours.

        Args:
            minutes_kept_s: after so many seconds a minute becomes a part of its hour.
            hours_kept_s: after so many seconds an hour is deleted.
        """
        self._repeat("merge_minutes", MERGED_AFTER_S)
        self._repeat("minutes_to_hours", minutes_kept_s)
        self._repeat("drop_hours", hours_kept_s)

    def _repeat(self, name: str, after_s: float) -> None:
        count = self.BATCH
        while count == self.BATCH:
            ((count,),) = self._run(name, after_s=after_s, limit=self.BATCH)
