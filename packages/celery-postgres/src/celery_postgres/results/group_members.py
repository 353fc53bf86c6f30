"""The tasks that a result consists of, and when a member of a set of results has ended."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from celery.result import ResultSet


def leaves(result: Any) -> Iterator[Any]:
    """The tasks of a result, which may be a group of groups."""
    if isinstance(result, ResultSet):
        for one in result.results or ():
            yield from leaves(one)
    else:
        yield result


def parents_read_once(reraise: Callable[..., Any], backend: type) -> Callable[..., Any]:
    """`AsyncResult._maybe_reraise_parent_error`, with one statement for all parents. `get()` of a chord calls it at
    once and then each second, and Celery reads the state of each part alone: 10 ms for a chord of a hundred."""

    @functools.wraps(reraise)
    def reraised(self: Any) -> None:
        here: Any = self.backend if isinstance(self.backend, backend) else None
        if here is None or not here.read_parents(self):
            reraise(self)
            return
        for node in reversed(list(self._parents())):
            for one in leaves(node):
                if one._cache:
                    one.maybe_throw()

    return reraised


def unknown_parents(result: Any) -> list[Any]:
    """The tasks before a result whose outcomes this process has not read."""
    unknown: list[Any] = []
    while (result := getattr(result, "parent", None)) is not None:
        unknown.extend(one for one in leaves(result) if not one._cache)
    return unknown


class Members:
    """The members of a set, each with the tasks that it waits for.

    A group in the set has ended when all of its tasks have, because Celery gets each of those without a timeout.
    """

    def __init__(self, results: Any) -> None:
        #: By task: its results, and for each member that waits for it the other tasks that this waits for.
        self.tasks: dict[str, list[Any]] = {}
        self._waiting: dict[str, list[tuple[Any, set[str]]]] = {}
        self._ended: list[Any] = []
        for member in results or ():
            group = isinstance(member, ResultSet)
            missing = [one for one in leaves(member) if not (one._cache or (group and one.ignored))]
            entry = member, {one.id for one in missing}
            for one in missing:
                self.tasks.setdefault(one.id, []).append(one)
            for task_id in entry[1]:
                self._waiting.setdefault(task_id, []).append(entry)
            if not missing:
                self._ended.append(member)

    def add(self, meta: dict[str, Any]) -> None:
        """Note that a task has ended."""
        for one in self.tasks[meta["task_id"]]:
            one._maybe_set_cache(dict(meta))
        for member, missing in self._waiting.pop(meta["task_id"]):
            missing.discard(meta["task_id"])
            if not missing:
                self._ended.append(member)

    def ended(self) -> Iterator[tuple[str, Any]]:
        """(id, meta) of each member that has ended since the last call; of a group its id and its results."""
        ended, self._ended = self._ended, []
        for member in ended:
            if isinstance(member, ResultSet):
                yield getattr(member, "id", ""), list(member.results or ())
            else:
                yield member.id, member._cache


def reading_once(join: Callable[..., Any], backend: type) -> Callable[..., Any]:
    """`ResultSet.join`, which in Celery before 5.7 takes a timeout of 0 for no timeout, with results that it reads once
    instead."""

    @functools.wraps(join)
    def joined(self: Any, timeout: float | None = None, *arguments: Any, **options: Any) -> Any:
        if timeout is not None and timeout <= 0 and isinstance(self.backend, backend):
            return self.join_native(timeout, *arguments, **options) or []
        return join(self, timeout, *arguments, **options)

    return joined
