"""The dry run of an action, as a page that asks for confirmation."""

from __future__ import annotations

from datetime import UTC, datetime

from celery_postgres.console import acting
from celery_postgres.console.looking import Look, Page


def plan(look: Look) -> Page:
    """What the action of the address would do."""
    action, _ = acting.action_of(look)
    at = datetime.now(UTC)
    return Page("plan.html", {"plan": action.plan(look, at), "fields": fields(look), "at": at.isoformat(), "error": ""})


def fields(look: Look) -> list[tuple[str, str]]:
    """What the form repeats."""
    return [(name, look.asked(name)) for name in acting.FIELDS if name in look.query]
