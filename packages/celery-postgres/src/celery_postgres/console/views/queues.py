"""Queues, and one of them."""

from __future__ import annotations

from datetime import UTC, datetime

from celery_postgres.console.formatting import plural
from celery_postgres.console.looking import Look, NotThereError, Page
from celery_postgres.console.views.past import asked, described, queue_charts
from celery_postgres.console.views.rows import queue_rows, worker_row

_HUNDRED = 100


def queues(look: Look) -> Page:
    """All queues, the internal ones folded away."""
    now = look.source.model.overview()
    rows = queue_rows(now.queues, now.problems)
    return Page(
        "queues.html",
        {
            "queues": [row for row in rows if not row["internal"]],
            "internal": [row for row in rows if row["internal"]],
            "cut": len(rows) >= 1_000,
        },
    )


def queue(look: Look) -> Page:
    """One queue: who fills it, who consumes it, what runs next."""
    model, span = look.source.model, asked(look)
    found = model.queue(look.asked("name"))
    if found is None:
        raise NotThereError("There is no queue of this name. It may have deleted itself.")
    (row,) = queue_rows([found.queue], model.overview().problems)
    total = sum(share.waiting for share in found.tenants) or 1
    now = datetime.now(UTC)
    says = "Workers claim nothing from it." if found.queue.paused else "Open."
    by = {"since": found.queue.paused_since, "by": found.queue.paused_by} if found.queue.paused_by else None
    return Page(
        "queue.html",
        {
            "queue": row,
            "charts": queue_charts(model.past(span, found.queue.name), found.queue),
            "past": described(look, "queue", span),
            "paused": by,
            "summary": f"{says} {plural(found.queue.consumers, 'consumer')}.",
            "tenants": [
                {
                    "id": share.tenant_id,
                    "count": share.waiting,
                    "share": round(share.waiting * _HUNDRED / total),
                }
                for share in found.tenants
            ]
            # A queue whose keys are no tenants would show that all of it is of no tenant.
            if any(share.tenant_id for share in found.tenants)
            else [],
            "nameless": bool(found.tenants),
            "tenants_of": f"Of the first {found.tenants_of}; scheduled tasks included",
            "workers": [worker_row(worker) for worker in found.workers],
            "next": [
                {
                    "id": one.task_id,
                    "name": one.name,
                    "tenant": one.tenant_id,
                    "waits_s": (now - one.changed_at).total_seconds() if one.changed_at else None,
                }
                for one in found.next
            ],
        },
    )
