"""The canvas of a task: a small graph, and a nested list for narrow screens and large canvases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from celery_postgres.console.formatting import plural
from celery_postgres.console.looking import STAFF, Look
from celery_postgres.readmodel import Member, Task

#: A graph has at most so many columns and rows; a larger canvas is a list.
_COLUMNS, _ROWS = 5, 10
#: The size of a box, and its distance from the next.
_WIDTH, _HEIGHT, _ACROSS, _DOWN = 150, 44, 222, 60
_LONGEST = 20
_DEEPEST = 4


@dataclass(slots=True)
class _Node:
    member: Member
    children: list[_Node] = field(default_factory=list)
    row: float = 0.0


def canvas(look: Look, found: Task) -> dict[str, Any] | None:
    """The canvas of a task, without what is another tenant's; None if the task is alone."""
    whole = look.source.model.canvas(found)
    if whole is None:
        return None
    own = [one for one in whole.members if _may_see(look, found, one)]
    if len(own) < 2:
        return None
    roots = _trees(own)
    rows = _place(roots)
    shown = [(node, depth) for root in roots for node, depth in _walk(root, 0)]
    columns = 1 + max(depth for _, depth in shown)
    drawn = columns <= _COLUMNS and rows <= _ROWS
    tasks = plural(sum(not one.is_group for one in own), "task")
    says = f"{tasks} of this canvas{' are shown; there are more' if whole.cut else ''}"
    if whole.is_group:
        says += ". It is a group that a program has sent: no result names it, so of its tasks that have ended only the"
        says += " parts of a chord are shown, until its body is sent"
    return {
        "says": says,
        "boxes": [_box(look, found, node, depth) for node, depth in shown] if drawn else [],
        "paths": [_path(node, child, depth) for node, depth in shown for child in node.children] if drawn else [],
        "width": columns * _ACROSS - (_ACROSS - _WIDTH) + 2,
        "height": int(rows * _DOWN - (_DOWN - _HEIGHT) + 2),
        "tree": [item for root in roots for item in _items(look, found, root, 0)],
    }


def _may_see(look: Look, found: Task, one: Member) -> bool:
    tenant = look.viewer.tenant
    return tenant is None or one.tenant_id == str(tenant) or one.task_id == found.row.task_id


def _trees(members: list[Member]) -> list[_Node]:
    """Members as trees, by their depths: each comes after what sent it."""
    roots: list[_Node] = []
    path: list[_Node] = []
    for one in members:
        node = _Node(one)
        while path and path[-1].member.depth >= one.depth:
            path.pop()
        (path[-1].children if path else roots).append(node)
        path.append(node)
    return roots


def _walk(node: _Node, depth: int) -> list[tuple[_Node, int]]:
    return [(node, depth), *(found for child in node.children for found in _walk(child, depth + 1))]


def _place(roots: list[_Node]) -> int:
    """Give each leaf a row, and each other node the middle of its children. Returns how many rows there are."""
    rows = 0
    for root in roots:
        for node, _ in _walk(root, 0)[::-1]:
            if node.children:
                node.row = (node.children[0].row + node.children[-1].row) / 2
            else:
                node.row = float(rows)
                rows += 1
    return rows


def _box(look: Look, found: Task, node: _Node, depth: int) -> dict[str, Any]:
    one = node.member
    last = "group" if one.is_group else (one.name or "name unknown").rpartition(".")[2]
    return {
        **_shown(look, found, one),
        "x": 1 + depth * _ACROSS,
        "y": 1 + round(node.row * _DOWN),
        "short": last if len(last) <= _LONGEST else f"{last[: _LONGEST - 1]}…",
    }


def _path(node: _Node, child: _Node, depth: int) -> str:
    begin, end = (round(one.row * _DOWN) + 1 + _HEIGHT // 2 for one in (node, child))
    left = 1 + depth * _ACROSS + _WIDTH
    return f"M{left} {begin}C{left + 36} {begin} {left + 36} {end} {left + _ACROSS - _WIDTH} {end}"


def _items(look: Look, found: Task, node: _Node, level: int) -> list[dict[str, Any]]:
    """A task and what follows it: one after the other in the same list, several at once in a list of their own."""
    items = [{**_shown(look, found, node.member), "then": bool(level), "inner": []}]
    while len(node.children) == 1:
        (node,) = node.children
        items.append({**_shown(look, found, node.member), "then": True, "inner": []})
    inner = []
    for child in node.children:
        first, *after = _items(look, found, child, level + 1)
        inner += [{**first, "then": False, "inner": after}] if level < _DEEPEST else [first, *after]
    if inner:
        items.append({"several": len(node.children), "inner": inner})
    return items


def _shown(look: Look, found: Task, one: Member) -> dict[str, Any]:
    here = one.task_id is not None and one.task_id == found.row.task_id
    links = look.viewer.role in STAFF and one.task_id is not None and one.state is not None and not here
    state = "" if one.state is None else str(one.state)
    return {
        "several": 0,
        "name": "group" if one.is_group else one.name,
        "group": one.is_group,
        "state": state,
        "says": "Sent together"
        if one.is_group
        else (state.capitalize() or "To come") + (", this task" if here else ""),
        "here": here,
        "bad": state in ("failed", "dead"),
        "link": look.link("task", id=one.task_id) if links else "",
    }
