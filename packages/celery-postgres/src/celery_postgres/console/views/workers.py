"""Workers, as far as today's tables know them."""

from __future__ import annotations

from datetime import UTC, datetime

from celery_postgres.console.formatting import plural
from celery_postgres.console.looking import Look, Page
from celery_postgres.console.views.rows import worker_row


def workers(look: Look) -> Page:
    """The processes that consume, the lost ones first."""
    found = look.source.model.overview().workers
    now = datetime.now(UTC)
    lost = sum(worker.lost for worker in found)
    rows = [
        worker_row(worker)
        | {"longest_s": (now - worker.oldest_claim_at).total_seconds() if worker.oldest_claim_at else None}
        for worker in found
    ]
    says = plural(len(found) - lost, "process lives", "processes live")
    if lost:
        says += f"; {plural(lost, 'is lost', 'are lost')}, and others release what it had claimed within 30 s"
    return Page("workers.html", {"workers": rows, "says": f"{says}. Claimed: what runs, and what runs next."})
