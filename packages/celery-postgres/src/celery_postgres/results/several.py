"""Results in several databases: each is where the worker of its task stores it, and is looked for in all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from celery_postgres.database import driver, pool
from celery_postgres.database.placement import Databases
from celery_postgres.database.pool import Sessions
from celery_postgres.database.result_store import Outcome
from celery_postgres.errors import SchemaError
from celery_postgres.results.listener import Listener, Sink, listener


class Watcher(Protocol):
    """A `Listener`, or several."""

    def watch(self, task_ids: Iterable[str], sink: Sink) -> None: ...

    def unwatch(self, task_ids: Iterable[str], sink: Sink) -> None: ...


class Listeners:
    """Watches tasks in several databases as a `Listener` does in one."""

    def __init__(self, listeners: list[Listener]) -> None:
        self._listeners = listeners
        self._sinks: dict[Sink, list[Sink]] = {}

    def watch(self, task_ids: Iterable[str], sink: Sink) -> None:
        """Call `sink` once for each task, as soon as it has ended in one of the databases."""
        watched, ended = list(task_ids), set[str]()
        self._sinks[sink] = [self._passing(number, sink, ended) for number in range(len(self._listeners))]
        for one, passing in zip(self._listeners, self._sinks[sink], strict=True):
            one.watch(watched, passing)
        if early := list(ended):  # before the last of them watched: it would watch such a task without end
            for one, passing in zip(self._listeners, self._sinks[sink], strict=True):
                one.unwatch(early, passing)

    def _passing(self, number: int, sink: Sink, ended: set[str]) -> Sink:
        def passing(outcome: Outcome) -> None:
            ended.add(outcome.task_id)
            others = self._sinks.get(sink, ())
            for other, (one, its) in enumerate(zip(self._listeners, others, strict=False)):
                if other != number:
                    one.unwatch([outcome.task_id], its)
            sink(outcome)

        return passing

    def unwatch(self, task_ids: Iterable[str], sink: Sink) -> None:
        """Do not call `sink` for these tasks any more."""
        unwatched = list(task_ids)
        for one, passing in zip(self._listeners, self._sinks.pop(sink, ()), strict=False):
            one.unwatch(unwatched, passing)


class OtherDatabases:
    """The databases of a fleet but the backend's own."""

    def __init__(self, databases: Databases | None, dsn: str, settings: dict[str, str], timeout: int) -> None:
        #: The name of the backend's own.
        self.own = own = None if databases is None else databases.name_of(dsn)
        self._dsns = {} if databases is None else {n: databases.dsn(n) for n in databases.names if n != own}
        self._settings, self._timeout = settings, timeout
        self._pid = 0
        self._open: dict[str, Sessions] = {}

    def __bool__(self) -> bool:
        return bool(self._dsns)

    def sessions(self, names: Iterable[str | None] | None = None) -> list[Sessions]:
        """Those of all, or of the databases of these names that are among them."""
        wanted = self._dsns if names is None else names
        return [self._sessions(name) for name in wanted if name in self._dsns]

    def _sessions(self, name: str) -> Sessions:
        if self._pid != os.getpid():
            self._pid, self._open = os.getpid(), {}
        if name not in self._open:
            self._open[name] = pool.acquire(self._dsns[name], self._settings, self._timeout, name)
        return self._open[name]

    def watchers(self, own: Listener) -> Watcher:
        """What watches tasks in all databases."""
        return Listeners([own, *map(listener, self.sessions())]) if self._dsns else own

    def complete(
        self, found: list[Outcome], task_ids: list[str], read: Callable[[Sessions, list[str]], list[Outcome]]
    ) -> list[Outcome]:
        """The outcomes of tasks, those included that have ended in another database.

        Args:
            found: what the backend's own database has.
            read: reads from one database. One that cannot be reached has nothing now.
        """
        for sessions in self.sessions():
            known = {one.task_id for one in found if one.final}
            missing = [task_id for task_id in task_ids if task_id not in known]
            if not missing:
                break
            try:
                found = [*found, *read(sessions, missing)]
            except (*driver.LOST_CONNECTION, SchemaError):
                continue
        return found
