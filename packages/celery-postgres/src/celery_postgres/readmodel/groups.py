"""The tasks of a group that a client has sent. They have no parent, and each is its own root: their messages name it.

A group is published together, so its messages have numbers near each other. Of what has ended only the parts of a chord
that is not complete yet are known, because no result names its group.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery_postgres.database.canvas_store import CanvasStore, EndedMember, LiveMember
from celery_postgres.database.payload import decode

_LONGEST = 255


def group_of(live: Iterable[LiveMember], task_id: str) -> str | None:
    """The group in the message of a task that no other task has sent. Nothing that a producer may write raises."""
    for one in live:
        if one.task_id != task_id:
            continue
        try:
            headers: dict[str, Any] = decode(one.payload or "").get("headers") or {}
        except ValueError:
            continue
        group = headers.get("group")
        if isinstance(group, str) and 0 < len(group) <= _LONGEST and not headers.get("parent_id"):
            return group
    return None


def beside(store: CanvasStore, task_id: str, group: str, most: int) -> tuple[list[EndedMember], list[LiveMember]]:
    """The other tasks of its group that are known: those that have ended, and those that have a message."""
    parts = store.parts(group, most)
    ids = [one for one in store.near(task_id, group, most) if one != task_id]
    return [one for one in parts if one.task_id != task_id], store.live(ids, most) if ids else []
