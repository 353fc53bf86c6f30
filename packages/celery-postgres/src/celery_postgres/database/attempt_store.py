"""The attempts at tasks that did not simply succeed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter

from celery_postgres.database.consumer_store import Removed
from celery_postgres.database.fleet_view_store import running_of
from celery_postgres.database.store import Store

_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """A row of `celery_attempt`. What is not known is None.

    Attributes:
        state: `retried`, `failed` or `revoked`; statements add `lost` and `dead`.
        published_at, due_at, started_at, ended_at: in seconds since 1970.
        error: the type of the exception, or why it was revoked. No value.
        traceback: its end; it may quote values.
    """

    task_id: str
    state: str
    name: str | None = None
    queue: str | None = None
    tenant_id: str | None = None
    worker: str | None = None
    retries: int | None = None
    published_at: float | None = None
    due_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    error: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """How long attempts are kept.

    Attributes:
        seconds: since they were recorded; 0 keeps none, and none is recorded with results.
        rows: the newest that are kept.
    """

    seconds: float = 7.0 * _DAY_S
    rows: int = 1_000_000


class AttemptStore(Store):
    """Record attempts, and delete old ones."""

    #: Rows that one statement deletes at most.
    BATCH = 1000

    def record(self, attempts: Iterable[EndedAttempt]) -> None:
        """Add attempts."""
        given = [dict(zip(EndedAttempt.__slots__, _values(one), strict=True)) for one in attempts]
        self._run("record_attempts", attempts=json.dumps(given))

    def remember_lost(self, removed: Removed) -> None:
        """Add what a removed consumer ran as it last reported, as far as nothing will run it again.

        Call it before the claims of that consumer are released.
        """
        now = datetime.now(UTC)
        lost = list(running_of(removed.running, now))
        if lost:
            self._run(
                "remember_lost",
                ids=[one.task_id for one in lost],
                names=[one.task for one in lost],
                ages_s=[(now - one.since).total_seconds() for one in lost],
                worker=removed.name or removed.hostname,
            )

    def drop_old(self, kept: Retention) -> bool:
        """Delete one batch of what is no longer kept. Returns whether there may be more."""
        ((count,),) = self._run("drop_old_attempts", seconds=kept.seconds, rows=kept.rows, batch=self.BATCH)
        return bool(count == self.BATCH)


_values = attrgetter(*EndedAttempt.__slots__)
