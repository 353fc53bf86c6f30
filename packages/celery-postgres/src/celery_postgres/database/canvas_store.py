"""The tasks of a canvas, as rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from celery_postgres.database.store import Runner, Store
from celery_postgres.database.task_rows import State, state_of, unescaped

#: Characters of a payload that is read for what follows its task.
_LONGEST = 200_000
#: Messages on each side of a task's that are searched for its group, and characters of one that is.
_SCANNED, _LONGEST_SCANNED = 500, 20_000


@dataclass(frozen=True, slots=True)
class EndedMember:
    """A task of a canvas whose result is stored; `children` are the bytes that Celery stores of what it has sent."""

    task_id: str
    name: str | None
    state: State
    parent_id: str | None
    tenant_id: str | None
    children: bytes | None


@dataclass(frozen=True, slots=True)
class LiveMember:
    """A task of a canvas that has a message or a dead letter; `payload` is None if it is too long."""

    task_id: str
    state: State
    tenant_id: str | None
    name: str | None
    payload: str | None


class CanvasStore(Store):
    """Read the tasks of a canvas.

    Args:
        runner: of the broker's database.
        results: of the database of the results; the same by default.
    """

    def __init__(self, runner: Runner, results: Runner | None = None) -> None:
        super().__init__(runner)
        self._run_results = (results or runner).run

    def root_of(self, task_id: str) -> str | None:
        """The root of the canvas of a task, if its result is stored."""
        for (root,) in self._run_results("view_root_of", task_id=task_id):
            return str(root)
        return None

    def ended(self, root: str, limit: int) -> list[EndedMember]:
        """The results of a canvas, its root's first; of the others at most `limit`."""
        return _ended(self._run_results("view_canvas", root=root, limit=limit))

    def parts(self, chord: str, limit: int) -> list[EndedMember]:
        """The parts of a chord that have ended, until its body is sent."""
        return _ended(self._run_results("view_group_parts", chord=chord, limit=limit))

    def near(self, task_id: str, group: str, limit: int) -> list[str]:
        """The tasks of a group whose messages are near that of a task, itself included."""
        named = f'"group": {json.dumps(group)}'
        rows = self._run(
            "view_group_near", task_id=task_id, named=named, scanned=_SCANNED, longest=_LONGEST_SCANNED, limit=limit
        )
        return [found for (found,) in rows]

    def live(self, task_ids: Sequence[str], limit: int) -> list[LiveMember]:
        """The messages and the dead letters of these tasks, of each kind at most `limit`."""
        rows = self._run("view_canvas_messages", task_ids=list(task_ids), longest=_LONGEST, limit=limit)
        return [
            LiveMember(task_id, State(state), tenant, unescaped(name), text)
            for task_id, state, tenant, name, text in rows
        ]


def _ended(rows: Iterable[Sequence[Any]]) -> list[EndedMember]:
    return [
        EndedMember(task_id, name, state_of(status), parent, tenant, None if children is None else bytes(children))
        for task_id, name, status, parent, tenant, children in rows
    ]
