"""Tasks: filters in the address, pages by keyset."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from celery_postgres.console.formatting import plural
from celery_postgres.console.looking import STAFF, Elsewhere, Look, NotThereError, Page
from celery_postgres.console.views.limits import slow
from celery_postgres.console.views.rows import FIRST_SEARCH_S, PAGE, task_row
from celery_postgres.readmodel import CursorError, State, TaskFilter
from celery_postgres.readmodel import Page as Rows

#: What may be the beginning of a task's id, rather than a part of a name.
ID = re.compile(r"[0-9a-fA-F]{8}[0-9a-fA-F-]*")
_SHORTEST_ID = 8
_WHEN = {
    "15m": ("Last 15 minutes", timedelta(minutes=15)),
    "1h": ("Last hour", timedelta(hours=1)),
    "6h": ("Last 6 hours", timedelta(hours=6)),
    "1d": ("Last day", timedelta(days=1)),
    "7d": ("Last 7 days", timedelta(days=7)),
}
_KNOWN = {"state": frozenset(map(str, State)), "when": frozenset(_WHEN)}
_NO_UUID = "Tasks are found by tenants that are UUIDs. Another text is a key of fair queues: see Limits."
_AT = {State.SCHEDULED: "Due", State.RUNNING: "Since"}


def tasks(look: Look) -> Page | Elsewhere:
    """The tasks that the address asks for. A tenant's are its own."""
    asked = {name: look.asked(name) for name in ("q", "state", "queue", "tenant", "when", "worker")}
    staff = look.viewer.role in STAFF
    text = asked["q"].strip("*").rstrip(".")
    if ID.fullmatch(text) and (alone := only_task(look, text)) is not None:
        return Elsewhere(look.link("task", id=alone))
    tenant = _uuid(asked["tenant"]) if staff else None
    wrong_tenant = bool(staff and asked["tenant"] and tenant is None)
    which = _filter(asked, text, tenant, staff=staff)
    page = Rows(()) if wrong_tenant else _read(look, which)
    state = which.state
    unknown = [name for name in ("state", "when") if asked[name] and asked[name] not in _KNOWN[name]]
    if unknown:
        page = Rows(())
    filtered = any(asked.values())
    return Page(
        "tasks.html",
        {
            "notices": slow(look),
            "heading": "Tasks" if staff else "Your tasks",
            "says": "" if staff else "The tasks that were submitted with this tenant's keys.",
            "caption": _order(state) if staff else "Your tasks, the last submitted first",
            "asked": asked | {"state": "" if state is None else str(state)},
            "tabs": _tabs(state),
            "fields": _fields(asked, staff=staff, wrong_tenant=wrong_tenant),
            "when": _AT.get(state, "Changed") if state is not None else "Changed",
            "tasks": [task_row(row) for row in page.rows],
            "blocked": set(look.source.model.blocked()) if staff else set(),
            "filtered": filtered,
            "older_link": look.again("tasks", before=page.next) if page.next else "",
            "said": _unknown_says(unknown) if unknown else _said(page, state),
            "staff": staff,
        },
    )


def only_task(look: Look, beginning: str) -> str | None:
    """The id of the one task that begins so and is this viewer's; None if there is none, or several."""
    if len(beginning) < _SHORTEST_ID:
        return None
    found = [one for one in look.source.model.find(beginning) if look.owns(one)]
    return found[0] if len(found) == 1 else None


def _read(look: Look, which: TaskFilter) -> Rows:
    cursor = look.asked("before") or None
    try:
        if look.viewer.tenant is None:
            return look.source.model.tasks(which, cursor, limit=PAGE, search_s=None if cursor else FIRST_SEARCH_S)
        if look.source.tenants is None:
            return Rows(())
        return look.source.tenants.tasks(look.viewer.tenant, which, cursor, PAGE)
    except CursorError:
        raise NotThereError("This page does not exist any more. Start from the newest.") from None


def _filter(asked: dict[str, str], text: str, tenant: str | None, *, staff: bool) -> TaskFilter:
    state = State(asked["state"]) if asked["state"] in set(State) else None
    window = _WHEN.get(asked["when"])
    return TaskFilter(
        state=state,
        task=text or None,
        queue=asked["queue"] or None,
        tenant=tenant,
        since=None if window is None else datetime.now(UTC) - window[1],
        consumer=int(asked["worker"]) if staff and re.fullmatch(r"\d{1,18}", asked["worker"], re.ASCII) else None,
    )


def _tabs(chosen: State | None) -> list[dict[str, Any]]:
    tabs = [{"name": "All", "state": None, "chosen": chosen is None}]
    return tabs + [{"name": str(one).capitalize(), "state": str(one), "chosen": one is chosen} for one in State]


def _fields(asked: dict[str, str], *, staff: bool, wrong_tenant: bool) -> list[dict[str, Any]]:
    times = [("", "Any time"), *((name, shown) for name, (shown, _) in _WHEN.items())]
    tenant = {"name": "tenant", "label": "Tenant", "value": asked["tenant"], "choices": None}
    return [
        {"name": "queue", "label": "Queue", "value": asked["queue"], "choices": None, "error": ""},
        *([tenant | {"error": _NO_UUID if wrong_tenant else ""}] if staff else []),
        {"name": "when", "label": "Changed", "value": asked["when"], "choices": times, "error": ""},
    ]


def _order(state: State | None) -> str:
    match state:
        case State.SCHEDULED:
            return "Scheduled tasks, the next due first"
        case State.RUNNING:
            return "Running tasks, the longest first"
    return "Tasks, the last changed first"


def _unknown_says(names: list[str]) -> str:
    """An address that asks for what does not exist shows nothing, rather than all."""
    return " ".join(f"There is no such value of {name}; there are {', '.join(sorted(_KNOWN[name]))}." for name in names)


def _said(page: Rows, state: State | None) -> str:
    if page.searched_until is not None and page.next:
        return f"Searched until {page.searched_until:%d %b %H:%M:%S} UTC; go on with Older."
    if not page.rows:
        return "Searched all of what is kept." if state is None else f"No {state} task. Searched all of what is kept."
    return f"{plural(len(page.rows), 'task')}. Tasks that ignore their result are listed until they have ended."


def _uuid(text: str) -> str | None:
    """As PostgreSQL writes it: Python reads more forms of a UUID than PostgreSQL does."""
    try:
        return str(UUID(text))
    except ValueError:
        return None
