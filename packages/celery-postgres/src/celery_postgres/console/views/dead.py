"""Dead letters: groups by reason and task, and the letters of one group."""

from __future__ import annotations

from typing import Any

from celery_postgres.console.formatting import plural
from celery_postgres.console.looking import STAFF, Look, NotThereError, Page
from celery_postgres.console.views.rows import FIRST_SEARCH_S, PAGE, reason_says
from celery_postgres.readmodel import CursorError, DeadLetterGroup, State, TaskFilter, TaskRow


def dead(look: Look) -> Page:
    """The groups, and the letters of one of them or the newest of all."""
    model = look.source.model
    tenant = None if look.viewer.tenant is None else str(look.viewer.tenant)
    queue, reason = look.asked("queue") or None, look.asked("reason") or None
    task = look.asked("task") if "task" in look.query else None
    found = model.dead_letters(tenant=tenant, queue=queue)
    which = TaskFilter(state=State.DEAD, queue=queue, tenant=tenant, reason=reason, whole_task=task)
    try:
        before = look.asked("before") or None
        page = model.tasks(which, before, limit=PAGE, search_s=None if before else FIRST_SEARCH_S)
    except CursorError:
        raise NotThereError("This page does not exist any more. Start from the newest.") from None
    chosen = reason is not None
    said = plural(len(page.rows), "letter")
    if page.searched_until is not None:
        said = f"Searched until {page.searched_until:%d %b %H:%M:%S} UTC; go on with Older"
    return Page(
        "dead.html",
        {
            "says": _says(look, queue),
            "filtered": chosen or queue is not None,
            "chosen": chosen,
            "groups": [_group(look, group, reason, task, found.unregistered) for group in found.groups],
            "letters": [_letter(row, found.unregistered) for row in page.rows],
            "older_link": look.again("dead", before=page.next) if page.next else "",
            "said": said,
            "staff": look.viewer.role in STAFF,
            "whole_task": task,
            "blocked": task is not None and look.acts and task in model.blocked(),
            "act_link": lambda do: _act_link(look, do, queue, reason, task),
        },
    )


def _says(look: Look, queue: str | None) -> str:
    of = "Of your tasks. " if look.viewer.tenant is not None else f"Of queue {queue}. " if queue else ""
    back = (
        "each can go back to its queue"
        if look.viewer.tenant is None
        else "an operator can put each back into its queue"
    )
    return f"{of}Set aside, not lost: {back}. Groups are of the newest 10,000."


def _act_link(look: Look, do: str, queue: str | None, reason: str | None, task: str | None) -> str:
    return look.link("act", do=do, queue=queue, reason=reason, task=task)


def _group(
    look: Look, group: DeadLetterGroup, reason: str | None, task: str | None, unregistered: frozenset[str]
) -> dict[str, Any]:
    staff = look.viewer.role in STAFF
    link = look.again("dead", reason=group.reason, task=None) + ("&task=" if group.task is None else "")
    if group.task is not None:
        link = look.again("dead", reason=group.reason, task=group.task)
    return {
        "says": reason_says(group.reason, unregistered=group.task in unregistered),
        "task": group.task,
        "queues": ", ".join(group.queues),
        "tenants": plural(group.tenants, "tenant") if staff and group.tenants else "",
        "count": group.count,
        "hour": group.last_hour,
        "first": group.first_at,
        "last": group.last_at,
        "chosen": group.reason == reason and (group.task or "") == task,
        "link": link,
    }


def _letter(row: TaskRow, unregistered: frozenset[str]) -> dict[str, Any]:
    return {
        "task_id": row.task_id,
        "name": row.name,
        "says": reason_says(row.error or "", unregistered=row.name in unregistered),
        "queue": row.queue,
        "tenant": row.tenant_id,
        "at": row.changed_at,
        "failures": row.failures,
        "size": _size(row.bytes or 0),
    }


def _size(count: int) -> str:
    if count < 1_000:
        return f"{count} B"
    return f"{count / 1_000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"
