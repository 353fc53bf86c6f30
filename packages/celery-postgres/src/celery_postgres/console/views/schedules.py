"""The schedule: what beats send, what became of the last run, what is due next, and why an entry is late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_postgres.console.formatting import duration, plural
from celery_postgres.console.looking import Look, Page
from celery_postgres.readmodel import Beat, Schedule
from celery_postgres.readmodel.thresholds import BEATLESS_S, OVERDUE_S

_STATES = {
    "SUCCESS": ("succeeded", "Succeeded"),
    "FAILURE": ("failed", "Failed"),
    "RETRY": ("retrying", "Retrying"),
    "REVOKED": ("revoked", "Revoked"),
    "STARTED": ("running", "Running"),
    "waiting": ("waiting", "Waiting"),
    "running": ("running", "Running"),
}


def schedules(look: Look) -> Page:
    """The entries, the late ones first."""
    model = look.source.model
    beats, found = model.beats(), model.schedules()
    alive = [one for one in beats if one.seen_s <= BEATLESS_S.warning]
    rows = [_row(one, alive=bool(alive), known=bool(beats)) for one in found]
    zones = sorted({one.timezone for one in beats if one.timezone})
    return Page(
        "schedules.html",
        {
            "rows": sorted(rows, key=lambda one: not one["late"]),
            "late": sum(one["late"] for one in rows),
            "beats": _beats_say(beats, alive),
            "alive": bool(alive),
            "zone": ", ".join(zones),
        },
    )


def is_late(one: Schedule) -> bool:
    """Whether an entry is late by so much that it needs attention."""
    return one.overdue_s is not None and one.overdue_s > OVERDUE_S.warning


def _beats_say(beats: Sequence[Beat], alive: Sequence[Beat]) -> str:
    if alive:
        seen = " and ".join(f"{one.hostname}, seen {duration(one.seen_s)} ago" for one in alive[:3])
        more = f" and {len(alive) - 3} more" if len(alive) > 3 else ""
        return f"{plural(len(alive), 'beat lives', 'beats live')}: {seen}{more}. Each run is sent once, by the first"
    if beats:
        return f"No beat lives: the last one, on {beats[0].hostname}, was seen {duration(beats[0].seen_s)} ago"
    return "No beat of this release has reported itself"


def _row(one: Schedule, *, alive: bool, known: bool) -> dict[str, Any]:
    name, word = _STATES.get(one.last.state, ("off", one.last.state.capitalize())) if one.last else ("", "")
    return {
        "entry": one.entry,
        "task": one.task,
        "schedule": one.schedule,
        "enabled": one.enabled,
        "late": is_late(one),
        "why": _why(one, alive=alive, known=known),
        "sent_at": one.sent_at or (one.last_run_at if one.runs else None),
        "task_id": one.last_task_id,
        "state": name,
        "word": word,
        "ran_s": one.last.ran_s if one.last else None,
        "next_at": one.next_run_at,
        "overdue_s": one.overdue_s,
        "requested": one.requested_at is not None,
    }


def _why(one: Schedule, *, alive: bool, known: bool) -> str:
    """What there is to know of an entry before its numbers; empty where all is well."""
    if one.requested_at is not None:
        return "is sent within 5 s" if alive else "is sent as soon as a beat runs"
    if one.last is not None and one.last.state == "waiting":
        return f"waits in the {'paused ' if one.last.paused else ''}queue {one.last.queue}"
    if not one.enabled:
        return "disabled by an operator"
    if is_late(one):
        return "a beat runs and has not sent it: its log says why" if alive else "no beat runs"
    if known and not one.listed:
        return "in the schedule of no beat"
    return ""
