"""The canvas of a task as a tree: what was sent by what, and what is still to come.

Results name the root and the parent of their task, and what it has sent. The message of a task has the steps that
follow it. So a canvas is known as far as its tasks have ended, and from those on that wait or run.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from celery_postgres.database.canvas_store import CanvasStore, EndedMember, LiveMember
from celery_postgres.database.payload import decode
from celery_postgres.database.task_rows import State
from celery_postgres.readmodel.groups import beside, group_of
from celery_postgres.readmodel.task import children_of

#: Tasks of one canvas that are read and shown.
MOST = 100
_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Member:
    """A task of a canvas.

    Attributes:
        task_id: its id; None of a step to come that has none yet.
        name: its task's name, if it is known.
        state: None of a step that is still to come.
        parent_id: what sent it, or will.
        tenant_id: whose it is.
        depth: how many tasks are between it and the root, and one.
        is_group: whether it is no task, but the group that its tasks were sent in.
    """

    task_id: str | None
    name: str | None
    state: State | None
    parent_id: str | None = None
    tenant_id: str | None = None
    depth: int = 0
    is_group: bool = False


@dataclass(frozen=True, slots=True)
class Canvas:
    """A canvas.

    Attributes:
        members: each after what sent it, the root first.
        cut: whether there are more than `MOST`.
        is_group: whether it is a group that a client has sent: of its tasks that have ended, only parts of a chord
            that is not complete are known.
    """

    members: tuple[Member, ...]
    cut: bool
    is_group: bool = False


def canvas_of(store: CanvasStore, task_id: str, root: str | None) -> Canvas | None:
    """The canvas of a task; None if it is alone.

    Args:
        store: reads the tasks.
        task_id: the task.
        root: the root in the headers of its message, if there is one.
    """
    root = root or store.root_of(task_id) or task_id
    ended = store.ended(root, MOST + 1)
    sent = {child: one.task_id for one in ended for child in children_of(one.children)}
    known = {one.task_id for one in ended}
    asked = [root, task_id, *sent]
    live = store.live(list(dict.fromkeys(asked))[: 2 * MOST], MOST)
    group = group_of(live, task_id)
    if group is not None:
        more_ended, more_live = beside(store, task_id, group, MOST)
        ended, live = [*ended, *more_ended], [*live, *more_live]
    members = {one.task_id: _ended(one, sent) for one in ended}
    to_come: list[Member] = []
    for one in live:
        member, steps = _live(one, sent)
        # A task that is retried has a result and a message.
        members[one.task_id] = replace(member, name=member.name or getattr(members.get(one.task_id), "name", None))
        to_come += steps
    for step in to_come:
        if step.task_id is None or step.task_id not in members:
            members[step.task_id or f"to come {len(members)}"] = step
    if len(members) < 2:
        return None
    if group is not None:
        # What names no known parent follows the root.
        root = f"group {group}"
        members = {root: Member(None, None, None, is_group=True), **members}
    ordered = list(_ordered(root, members))
    return Canvas(tuple(ordered[:MOST]), len(ordered) > MOST or len(known) > MOST, group is not None)


def _ended(one: EndedMember, sent: dict[str, str]) -> Member:
    return Member(one.task_id, one.name, one.state, one.parent_id or sent.get(one.task_id), one.tenant_id)


def _live(one: LiveMember, sent: dict[str, str]) -> tuple[Member, list[Member]]:
    """A task that waits or runs, and the steps that follow it. Nothing that a producer may write raises."""
    try:
        message = decode(one.payload or "")
    except ValueError:
        # Too long, unreadable, or withheld from this login.
        return Member(one.task_id, one.name, one.state, sent.get(one.task_id), one.tenant_id), []
    headers = message.get("headers") or {}
    parent = _text(headers.get("parent_id")) or sent.get(one.task_id)
    member = Member(one.task_id, _text(headers.get("task")) or one.name, one.state, parent, one.tenant_id)
    before, steps = one.task_id, []
    for number, (step_id, name) in enumerate(_following(message)):
        identity = step_id or f"{one.task_id} step {number}"
        steps.append(Member(step_id, name, None, before, one.tenant_id))
        before = identity
    return member, steps


def _following(message: dict[str, Any]) -> Iterator[tuple[str | None, str | None]]:
    """The id and the name of each step of a chain after this task, and of the body of its chord."""
    try:
        body: Any = message.get("body")
        text = base64.b64decode(body) if message["properties"].get("body_encoding") == "base64" else body
        embed = json.loads(text)[2]
        steps = [*reversed(embed.get("chain") or ()), *([embed["chord"]] if embed.get("chord") else [])]
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return
    for step in steps[:MOST]:
        if not isinstance(step, dict):
            return
        options = step.get("options")
        yield _text(options.get("task_id")) if isinstance(options, dict) else None, _text(step.get("task"))


def _ordered(root: str, members: dict[str, Member]) -> Iterator[Member]:
    """Each member after its parent. What names no known parent follows the root; a ring is cut."""
    children: dict[str | None, list[str]] = {}
    for identity, one in members.items():
        parent = one.parent_id if one.parent_id in members and one.parent_id != identity else root
        if identity != root:
            children.setdefault(parent, []).append(identity)
    seen: set[str] = set()
    left = [(root, 0)] if root in members else [(one, 0) for one in children.get(root, ())][::-1]
    while left:
        identity, depth = left.pop()
        if identity in seen:
            continue
        seen.add(identity)
        yield replace(members[identity], depth=depth)
        left += [(child, depth + 1) for child in children.get(identity, ())][::-1]
    for identity, one in members.items():
        if identity not in seen:
            yield one


def _text(value: Any) -> str | None:
    return value[:_LONGEST] if isinstance(value, str) and value else None
