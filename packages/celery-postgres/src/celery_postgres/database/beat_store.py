"""When each entry of a beat's schedule last ran, what operators want of it, and which beats live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from celery_postgres.database.store import Store


@dataclass(frozen=True, slots=True)
class BeatEntry:
    """A row of `celery_beat_entry`.

    Attributes:
        last_run_at: from when its next run counts.
        runs: how often its schedule has sent it.
        enabled: whether its schedule sends it.
        requested: an operator wants it sent once, now.
    """

    name: str
    last_run_at: datetime
    runs: int
    enabled: bool
    requested: bool


@dataclass(frozen=True, slots=True)
class Described:
    """What an entry sends and when, and when it is due; None where this is not known."""

    name: str
    task: str
    schedule: str
    next_run_at: datetime | None


class BeatStore(Store):
    """Read the entries, and take their runs."""

    def read(self, names: Sequence[str], now: datetime) -> list[BeatEntry]:
        """The entries of these names. One that is new counts from `now` on, by the clock of the beat."""
        return [BeatEntry(*row) for row in self._run("beat_entries", names=list(names), now=now)]

    def take(self, entry: str, runs: int, at: datetime, next_run_at: datetime | None) -> bool:
        """Take the next run of an entry. Returns whether it is ours: another beat may have been first, or an operator
        has disabled it.

        Args:
            runs: how many runs the caller knows of.
            next_run_at: when the run after this one is due.
        """
        return bool(self._run("beat_take", entry=entry, runs=runs, at=at, next=next_run_at))

    def take_request(self, entry: str) -> bool:
        """Take the request of an operator to send an entry now. Returns whether it is ours."""
        return bool(self._run("beat_take_request", entry=entry))

    def sent(self, entry: str, task_id: str | None) -> None:
        """Note the task that was sent for an entry."""
        self._run("beat_sent", entry=entry, task_id=task_id)

    def describe(self, entries: Sequence[Described]) -> None:
        """Note what the entries send, and when each is due."""
        self._run(
            "beat_describe",
            names=[one.name for one in entries],
            tasks=[one.task for one in entries],
            schedules=[one.schedule for one in entries],
            next=[one.next_run_at for one in entries],
        )

    # -- beats

    def start(self, beat: int, hostname: str, pid: int, timezone: str, entries: Sequence[str]) -> None:
        """Note that a beat lives, and which entries it sends."""
        self._run("beat_start", beat=beat, hostname=hostname, pid=pid, timezone=timezone, names=list(entries))

    def seen(self, beat: int) -> bool:
        """Note that a beat still lives. Returns False if its row is gone."""
        return bool(self._run("beat_seen", beat=beat))

    def stop(self, beat: int) -> None:
        """Note that a beat has ended."""
        self._run("beat_stop", beat=beat)
