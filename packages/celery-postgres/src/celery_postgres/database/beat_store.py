"""When each entry of a beat's schedule last ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from celery_postgres.database.store import Store


@dataclass(frozen=True, slots=True)
class BeatEntry:
    """A row of `celery_beat_entry`."""

    name: str
    last_run_at: datetime
    runs: int


class BeatStore(Store):
    """Read the entries, and take their runs."""

    def read(self, names: Sequence[str], now: datetime) -> list[BeatEntry]:
        """The entries of these names. One that is new counts from `now` on, by the clock of the beat."""
        return [BeatEntry(*row) for row in self._run("beat_entries", names=list(names), now=now)]

    def take(self, entry: str, runs: int, at: datetime) -> bool:
        """Take the next run of an entry. Returns whether it is ours: another beat may have been first.

        Args:
            runs: how many runs the caller knows of.
        """
        return bool(self._run("beat_take", entry=entry, runs=runs, at=at))
