"""One task: where it is, why it failed, and what its publisher said of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from celery_postgres.console import tracebacks
from celery_postgres.console.access import Role
from celery_postgres.console.formatting import moment, plural
from celery_postgres.console.looking import STAFF, Look, NotThereError, Page
from celery_postgres.console.views.attempts import attempt_rows
from celery_postgres.console.views.canvas import canvas
from celery_postgres.console.views.rows import reason_says
from celery_postgres.readmodel import Attempt, State, Task

_ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.REVOKED})


def task(look: Look) -> Page:
    """The task of the address, if it is this viewer's."""
    task_id = look.asked("id")
    found = look.source.model.task(task_id) if task_id and look.owns(task_id) else None
    if found is None:
        raise NotThereError(
            "Nothing is kept of this task: its result has expired or was ignored, or there never was one of this id."
        )
    row = found.row
    blocked = look.source.model.blocked().get(row.name or "") if look.viewer.role in STAFF else None
    return Page(
        "task.html",
        {
            "task": {"id": task_id, "name": row.name, "state": str(row.state)},
            "says": _says(found),
            "blocked": blocked,
            "revocable": _revocable(look, found),
            "reads": look.acts and look.viewer.payloads,
            "error": _error(look, found),
            "advice": _advice(look, found, blocked=blocked is not None),
            "canvas": canvas(look, found),
            "attempts": attempt_rows(found.attempts, staff=look.viewer.role in STAFF),
            "events": _events(found, staff=look.viewer.role in STAFF),
            "facts": _facts(look, found),
            "arguments": [one.rpartition(": ")[::2] for one in found.origin.arguments],
        },
    )


def _revocable(look: Look, found: Task) -> bool:
    may = look.viewer.role in (Role.OPERATOR, Role.TENANT) and look.source.broker is not None
    return may and found.row.state in (State.WAITING, State.SCHEDULED, State.RETRYING)


def _says(found: Task) -> str:
    attempts = sum(one.state is not State.DEAD for one in found.attempts)
    if found.row.state in _ENDED and attempts > 1:
        return f"after {plural(attempts, 'attempt')},"
    if found.row.state in (State.RUNNING, State.WAITING) and found.row.failures:
        return f"again: {plural(found.row.failures, 'delivery', 'deliveries')} failed"
    return ""


def _error(look: Look, found: Task) -> dict[str, Any] | None:
    """Its last error. Only a viewer with that right sees the message, which may quote values."""
    if not found.traceback and found.row.state is not State.FAILED:
        return None
    if look.viewer.role in STAFF:
        whose = "Of the task that failed before it" if found.never_ran else "Of the last attempt"
        lines, note = tracebacks.frames(found.calls), f"{whose}. The message is withheld: it may quote data"
    else:
        lines, note = [], "Of the last attempt. The API shows the messages that quote no data"
    return {
        "type": _type(found),
        "note": note,
        "frames": lines,
        "message": "",
    }


def _type(found: Task) -> str:
    """Of the last error. The row of a dead letter, or of a lost task, has why it is one."""
    told = found.row.error if found.row.state not in (State.DEAD, State.LOST) else None
    ended = (one.error for one in reversed(found.attempts) if one.state in (State.FAILED, State.RETRYING))
    return told or next(filter(None, ended), None) or "The type of the error is not kept"


def _advice(look: Look, found: Task, *, blocked: bool) -> dict[str, str] | None:
    """Why it does not run, and what may be done."""
    status, staff = found.status, look.viewer.role in STAFF
    queue = status.queue or ""
    link = look.link("queue", name=queue) if staff and queue else ""
    if found.never_ran:
        link = look.link("task", id=found.origin.parent_id)
        text = "A task before it in its chain or chord has failed, and Celery stores that failure as this one's, too."
        return _advised("It never ran", text, link, "Open the task that failed")
    if found.row.state is State.LOST:
        at = f" at {found.row.changed_at:%H:%M:%S} UTC" if found.row.changed_at else ""
        worker = f" on {found.row.worker}" if staff and found.row.worker else ""
        text = (
            f"It was running{worker} when that worker was lost{at}. It had been acknowledged early, before it ran, so"
            " no worker runs it again. What it had done by then is not known. Send it again if that does no harm; with"
            " acks_late it would have run again by itself."
        )
        return _advised("Lost with its worker", text, "", "")
    if found.row.state is State.DEAD:
        unregistered = any(one.error == "NotRegistered" for one in found.attempts)
        says = reason_says(found.row.error or "", unregistered=unregistered)
        again = look.link("dead", reason=found.row.error, task=found.row.name or "", queue=queue or found.row.queue)
        text = "It is set aside, not lost: it can go back to its queue."
        if unregistered:
            text = (
                "The worker that got it knows no task of this name: it was renamed, or its module is not imported."
                " It is set aside, not lost: start a worker that knows it, then requeue its letter."
            )
        if look.viewer.tenant is not None:
            text = "It is set aside, not lost: an operator can put it back into its queue."
        return _advised(says, text, again, "See its group")
    if found.row.state in (State.WAITING, State.SCHEDULED) and blocked:
        text = "An operator has blocked the tasks of this name: the worker that gets it sets it aside."
        return _advised("It will not run", text, look.link("dead"), "Open dead letters")
    if found.row.state in (State.WAITING, State.SCHEDULED) and status.consumed is False:
        text = "No worker consumes its queue, so it waits until one does."
        advice = _advised("Why it waits", text, link, "Open queue")
        return advice | {"command": f"celery -A APP worker -Q {queue}"} if staff else advice
    if found.row.state in (State.WAITING, State.SCHEDULED) and status.paused:
        return _advised("Why it waits", "Its queue is paused: workers claim nothing from it.", link, "Open queue")
    if found.row.state is State.WAITING and staff:
        return _advised("Why it waits", "Others of its queue run before it.", link, "Open queue")
    return None


def _advised(heading: str, text: str, link: str, action: str) -> dict[str, str]:
    return {"heading": heading, "text": text, "link": link, "action": action, "command": ""}


def _events(found: Task, *, staff: bool) -> list[dict[str, Any]]:
    """What is known of its course, the oldest first."""
    published = [found.row.published_at, *(one.published_at for one in found.dead_letters)]
    published += [one.published_at for one in found.attempts]
    events: list[tuple[datetime, str, str, str]] = [
        (moment, "", f"Published to {found.row.queue}" if found.row.queue else "Published", "")
        for moment in published
        if moment is not None
    ]
    if found.row.due_at is not None:
        events.append((found.row.due_at, "", "Due", ""))
    for attempt in found.attempts:
        if attempt.began_at is not None:
            worker = f" by {attempt.worker}" if attempt.worker and staff else ""
            begun = "Claimed" if attempt.ended_at is None or attempt.error == "worker lost" else "Began"
            events.append((attempt.began_at, "acc", f"{begun}{worker}", _lost(attempt)))
        if attempt.ended_at is not None:
            tone = "bad" if attempt.state in (State.FAILED, State.DEAD, State.LOST) else "acc"
            worker = f" on {attempt.worker}" if attempt.worker and staff else ""
            error = reason_says(attempt.error) if attempt.state is State.DEAD and attempt.error else attempt.error
            events.append((attempt.ended_at, tone, f"{str(attempt.state).capitalize()}{worker}", error or ""))
    unique = sorted(dict.fromkeys(events), key=lambda event: event[0])
    return [{"at": at, "tone": tone, "text": text, "more": more} for at, tone, text, more in unique]


def _lost(attempt: Attempt) -> str:
    return f"{plural(attempt.lost, 'delivery', 'deliveries')} failed before" if attempt.lost else ""


def _facts(look: Look, found: Task) -> list[tuple[str, Any, str]]:
    """What is known of it, with links where this viewer has the view."""
    row, origin, staff = found.row, found.origin, look.viewer.role in STAFF
    related = (("Root", origin.root_id), ("Parent", origin.parent_id))
    facts: list[tuple[str, Any, str]] = [
        ("Queue", row.queue, look.link("queue", name=row.queue) if staff else ""),
        ("Tenant", row.tenant_id, look.link("tasks", tenant=row.tenant_id) if staff else ""),
        ("Worker", row.worker if staff else None, ""),
        ("Celery's state", found.celery_state, ""),
        ("Retries", row.failures or None, ""),
        ("Due", None if row.due_at is None else moment(row.due_at), ""),
        ("Expires", None if origin.expires_at is None else moment(origin.expires_at), ""),
        ("Published by", origin.publisher if staff else None, ""),
        ("Correlation", origin.correlation_id, ""),
        *((name, one, look.link("task", id=one)) for name, one in related if one and one != row.task_id),
        ("Group", origin.group_id, ""),
        *(("Sent", child, look.link("task", id=child)) for child in found.children[:20]),
    ]
    return [fact for fact in facts if fact[1]]
