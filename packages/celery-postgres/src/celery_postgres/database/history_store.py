"""The attempts that are remembered, as lists and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery_postgres.database.store import Store

#: The error of an attempt that was lost with its worker for good.
LOST_EARLY = "acknowledged early"
#: Attempts that are shown of one task.
_OF_A_TASK = 20


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """An attempt that did not simply succeed. Texts are a producer's; the traceback may quote values."""

    id: int
    task_id: str
    state: str
    name: str | None
    queue: str | None
    tenant_id: str | None
    worker: str | None
    retries: int | None
    published_at: datetime | None
    due_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None
    traceback: str | None


@dataclass(frozen=True, slots=True)
class Failures:
    """Attempts of one task name that ended with one error, of the newest 10,000 that are remembered.

    Attributes:
        failed, retried, lost: how many of each.
        first_at, last_at: when the first and the last of them was recorded.
        tenants: how many tenants they are of.
    """

    task: str | None
    error: str | None
    failed: int
    retried: int
    lost: int
    first_at: datetime
    last_at: datetime
    tenants: int

    @property
    def for_good(self) -> bool:
        """Whether they were acknowledged before they were lost with their worker, so that they do not run again."""
        return bool(self.lost) and self.error == LOST_EARLY


class HistoryStore(Store):
    """Read attempts."""

    def of_task(self, task_id: str) -> list[PastAttempt]:
        """Those of one task, the last first."""
        return _attempts(self._run("view_attempts_of_task", task_id=task_id, limit=_OF_A_TASK))

    def ended(
        self,
        tenant: str | None,
        *,
        before: int,
        scanned: int,
        limit: int,
        consumer: int | None = None,
        **which: Any,
    ) -> tuple[list[PastAttempt], tuple[int, datetime] | None]:
        """Those that ended a task of which no result is kept, of a tenant or of all, the last recorded first; and the
        number and the time of the last that was read, if they are fewer than `limit` and there may be more."""
        name, end = "view_attempts", "view_attempts_end"
        bounds = dict[str, Any](before=before, scanned=scanned)
        if tenant is not None:
            name, end = "view_attempts_of_tenant", "view_attempts_of_tenant_end"
            bounds |= {"tenant": tenant}
        asked = which if tenant is not None else which | {"consumer": consumer}
        found = _attempts(self._run(name, limit=limit, **bounds, **asked))
        if len(found) < limit:
            for number, recorded_at in self._run(end, **bounds):
                return found, (number, recorded_at)
        return found, None

    def failures(self, since: datetime, *, cap: int, groups: int) -> list[Failures]:
        """What failed since a time, by task and error, the most first."""
        return [Failures(*row) for row in self._run("view_failures", since=since, cap=cap, groups=groups)]

    def unregistered(self, *, cap: int) -> frozenset[str]:
        """The names of tasks that some worker did not know."""
        return frozenset(name for (name,) in self._run("view_unregistered", cap=cap))


def _attempts(rows: Sequence[tuple[Any, ...]]) -> list[PastAttempt]:
    return [PastAttempt(*row) for row in rows]
