"""Workers: the lost ones first, then what each runs, the longest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from celery_postgres.console.formatting import plural
from celery_postgres.console.looking import Look, Page
from celery_postgres.console.views.rows import worker_row
from celery_postgres.readmodel import Worker

#: Squares of one worker.
_MOST_SQUARES = 24
_SHOWN_TASKS = 3


def workers(look: Look) -> Page:
    """The processes that consume, the lost ones first."""
    found = look.source.model.workers()
    now = datetime.now(UTC)
    versions = Counter(one.app_version for one in found if one.app_version and not one.lost)
    common = max(versions, key=lambda one: (versions[one], one)) if versions else None
    return Page(
        "workers.html",
        {
            "workers": [_row(one, now, common) for one in found],
            "lives": _lives(found),
            "lost": sum(one.lost for one in found),
            "slots": _slots_say(found),
            "versions": [(name, number) for name, number in versions.most_common()] if len(versions) > 1 else [],
        },
    )


def _lives(found: Sequence[Worker]) -> str:
    """How many workers are up; other programs that consume are counted apart."""
    up = [one for one in found if not one.lost]
    own = sum(one.name is not None for one in up)
    text = f"{own:,} up" if own else ""
    others = f"{plural(len(up) - own, 'other process', 'other processes')} up" if len(up) > own else ""
    return " and ".join(filter(None, (text, others))) or "None is up"


def _slots_say(found: Sequence[Worker]) -> str:
    own = [one for one in found if not one.lost and one.slots is not None]
    if not own:
        return ""
    busy, slots = sum(min(one.busy or 0, one.slots or 0) for one in own), sum(one.slots or 0 for one in own)
    return f"{busy:,} of {plural(slots, 'slot')} {'runs' if busy == 1 else 'run'} a task."


def _row(worker: Worker, now: datetime, common: str | None) -> dict[str, Any]:
    def ago(at: datetime | None) -> float | None:
        return None if at is None else max(0.0, (now - at).total_seconds())

    busy, slots = worker.busy or 0, worker.slots or 0
    return worker_row(worker) | {
        "reports": worker.name is not None,
        "pool": worker.pool,
        "slots": worker.slots,
        "busy": 0 if worker.lost else busy,
        "squares": [not worker.lost and number < busy for number in range(min(slots, _MOST_SQUARES))],
        "running": [
            {"id": one.task_id, "name": one.task, "for_s": ago(one.since)}
            for one in (worker.lost_tasks if worker.lost else worker.running)[:_SHOWN_TASKS]
        ],
        "more": max(0, (len(worker.lost_tasks) if worker.lost else busy) - _SHOWN_TASKS),
        "lost_tasks": len(worker.lost_tasks),
        "draining": worker.draining and not worker.lost,
        "seen_s": ago(worker.seen_at or worker.lost_at),
        "version": worker.app_version,
        "odd": worker.app_version is not None and worker.app_version != common and not worker.lost,
        "released": worker.released,
        "lost_at": worker.lost_at,
        "longest_s": ago(worker.oldest_claim_at),
        "drains": worker.name is not None and not worker.lost and not worker.draining,
    }
