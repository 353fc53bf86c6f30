"""Actions: who did what by hand."""

from __future__ import annotations

import re
from typing import Any

from celery_postgres.console.formatting import plural
from celery_postgres.console.looking import Look, NotThereError, Page
from celery_postgres.console.views.rows import PAGE
from celery_postgres.readmodel import Action
from celery_postgres.readmodel.changes import detail, did


def actions(look: Look) -> Page:
    """What people did, the last first, in pages."""
    before = look.asked("before")
    if before and not re.fullmatch(r"[0-9]{1,18}", before):
        raise NotThereError("This page does not exist any more. Start from the newest.")
    found = look.source.model.actions(PAGE, int(before) if before else None)
    return Page(
        "actions.html",
        {
            "actions": [_row(one) for one in found],
            "before": before,
            "older_link": look.again("actions", before=str(found[-1].id)) if len(found) == PAGE else "",
            "said": f"{plural(len(found), 'action')}.",
        },
    )


def _row(one: Action) -> dict[str, Any]:
    return {
        "text": did(one),
        "more": detail(one),
        "open": one.ended_at is None,
        "source": one.source,
        "login": one.login,
        "at": one.began_at,
        "planned": "" if one.planned is None else f"{one.planned:,}",
        "done": f"{one.done:,}",
    }
