"""The console of a filled database, served on the loopback address: what each view costs.

``python -m benchmarks.programs.console_program URL``; it prints one line of JSON. The first look is that of a new
process, which has read nothing yet. Each of the next ones reads the overview anew, once, and finds its causes read.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from statistics import median
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from benchmarks.view_filling import task_id
from celery_postgres import console, operations
from celery_postgres.console import application
from celery_postgres.database.session import Session
from celery_postgres.readmodel import Page, ReadModel, TaskFilter
from environment.testkit.console import Console, TenantKeys

_REPEATED = 5
#: Of the first task.
_TENANT = task_id(1)
_ID, _TASK, _REASON = task_id(1), "mine.task7", "failed 1 times"
#: What it shows, the address, and who looks where that is not an operator.
VIEWS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("overview", "", {}),
    ("overview of a day", "", {"span": "day"}),
    ("overview of a week", "", {"span": "week"}),
    ("queues", "queues", {}),
    ("a long queue", "queue", {"name": "queue-1"}),
    ("a queue", "queue", {"name": "queue-7"}),
    ("a queue of a week", "queue", {"name": "queue-7", "span": "week"}),
    ("a fair queue", "queue", {"name": "queue-300"}),
    ("tasks", "tasks", {}),
    ("tasks by name", "tasks", {"q": "task7"}),
    ("tasks of a queue", "tasks", {"queue": "queue-1"}),
    ("tasks by name and queue", "tasks", {"q": "task7", "queue": "queue-7"}),
    ("tasks of a tenant", "tasks", {"tenant": _TENANT}),
    ("tasks of the last hour", "tasks", {"when": "1h"}),
    ("waiting", "tasks", {"state": "waiting"}),
    ("waiting of a queue", "tasks", {"state": "waiting", "queue": "queue-1"}),
    ("waiting of a tenant", "tasks", {"state": "waiting", "queue": "queue-1", "tenant": _TENANT}),
    ("waiting by name", "tasks", {"state": "waiting", "queue": "queue-1", "q": "task7"}),
    ("scheduled", "tasks", {"state": "scheduled"}),
    ("scheduled by name", "tasks", {"state": "scheduled", "q": "task7"}),
    ("running", "tasks", {"state": "running"}),
    ("running by name and queue", "tasks", {"state": "running", "q": "task7", "queue": "queue-7"}),
    ("retrying", "tasks", {"state": "retrying"}),
    ("succeeded", "tasks", {"state": "succeeded"}),
    ("succeeded by name and queue", "tasks", {"state": "succeeded", "q": "task7", "queue": "queue-7"}),
    ("failed", "tasks", {"state": "failed"}),
    ("failed by name", "tasks", {"state": "failed", "q": "task20"}),
    ("failed of a tenant", "tasks", {"state": "failed", "tenant": _TENANT}),
    ("failed of the last hour", "tasks", {"state": "failed", "when": "1h"}),
    ("revoked", "tasks", {"state": "revoked"}),
    ("dead", "tasks", {"state": "dead"}),
    ("tasks of a worker", "tasks", {"state": "running", "worker": "1"}),
    ("a task with 20 attempts and a canvas of 100", "task", {"id": _ID}),
    ("a task that has ended", "task", {"id": task_id(9_901)}),
    ("a task that failed", "task", {"id": task_id(500)}),
    ("dead letters", "dead", {}),
    ("dead letters of a queue", "dead", {"queue": "queue-7"}),
    ("a group of dead letters", "dead", {"reason": _REASON, "task": _TASK}),
    ("workers", "workers", {}),
    ("limits", "limits", {}),
    ("limits of a queue and a key", "limits", {"queue": "queue-300", "key": "key-7"}),
    ("a limit", "limit", {"queue": "queue-300", "key": "key-7"}),
    ("schedules", "schedules", {}),
    ("actions", "actions", {}),
    ("find", "find", {"q": _ID[:8]}),
    ("find a name", "find", {"q": "task7"}),
    ("plan: requeue", "act", {"do": "requeue", "reason": _REASON, "task": _TASK}),
    ("plan: discard", "act", {"do": "discard", "reason": _REASON, "task": _TASK, "queue": "queue-7"}),
    ("plan: pause", "act", {"do": "pause", "queue": "queue-1"}),
    ("plan: revoke", "act", {"do": "revoke", "id": _ID}),
    ("plan: block", "act", {"do": "block", "name": _TASK}),
    ("plan: drain", "act", {"do": "drain-worker", "id": "1"}),
    ("plan: run now", "act", {"do": "run-now", "name": "entry-7"}),
    ("plan: limit", "act", {"do": "limit", "queue": "queue-300", "key": "key-7", "concurrency": "9"}),
    ("plan: show values", "act", {"do": "read", "id": _ID}),
    ("tenant: tasks", "tasks", {"as": "tenant"}),
    ("tenant: failed", "tasks", {"as": "tenant", "state": "failed"}),
    ("tenant: a task", "task", {"as": "tenant", "id": _ID}),
    ("tenant: dead letters", "dead", {"as": "tenant"}),
    ("tenant: limits", "limits", {"as": "tenant"}),
)


class _Owned:
    """All that the read model knows of a tenant is its own."""

    def __init__(self, model: ReadModel) -> None:
        self._model = model

    def tasks(self, tenant: UUID, which: TaskFilter, cursor: str | None, limit: int) -> Page:
        found = TaskFilter(state=which.state, task=which.task, queue=which.queue, tenant=str(tenant), since=which.since)
        return self._model.tasks(found, cursor, limit=limit)

    def owns(self, tenant: UUID, task_id: str) -> bool:
        return self._model.task(task_id, tenant=tenant) is not None


class _Keys:
    """An operator that may see values, and a tenant."""

    def find(self, key_id: str) -> console.Viewer | None:
        if key_id == "operator":
            return console.Viewer(console.Role.OPERATOR, "operator", key_id, payloads=True)
        return console.Viewer(console.Role.TENANT, "tenant", key_id, tenant=UUID(_TENANT))

    enter = find


class _Spent:
    """The milliseconds of statements, by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, float] = defaultdict(float)
        run = Session.run

        def timed(session: Session, name: str, **parameters: Any) -> Any:
            begun = time.perf_counter()
            try:
                return run(session, name, **parameters)
            finally:
                self.by_name[name] += (time.perf_counter() - begun) * 1000

        Session.run = timed  # type: ignore[method-assign]


@contextmanager
def _served(url: str) -> Iterator[tuple[Console, ReadModel]]:
    model, broker = ReadModel(url), operations.connect(url)
    keys = {"operator": "operator", "tenant": "tenant"}
    made = console.create(console.Source(model, _Owned(model), broker), _Keys())
    served = Console(made, keys, None, url, TenantKeys(), 0)  # type: ignore[arg-type]
    served.start()
    try:
        yield served, model
    finally:
        served.close()
        model.close()
        broker.close()


def _look(served: Console, path: str, cookie: str, spent: _Spent) -> dict[str, Any]:
    """One look: the milliseconds of SQL, those to the first byte, and what each statement took."""
    spent.by_name.clear()
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection:
        begun = time.perf_counter()
        connection.request("GET", path, headers={"Cookie": cookie, "Accept-Encoding": "gzip"})
        response = connection.getresponse()
        byte = (time.perf_counter() - begun) * 1000
        response.read()
    statements = dict(spent.by_name)
    return {"sql": sum(statements.values()), "byte": byte, "status": response.status, "statements": statements}


def measure(url: str, only: str = "") -> dict[str, dict[str, Any]]:
    """What each view took: the first look, and the median and the least of the next ones."""
    spent, found = _Spent(), {}
    for name, path, parameters in VIEWS:
        if only not in name:
            continue
        asked = dict(parameters)
        who = asked.pop("as", "operator")
        address = f"/{path}" + (f"?{urlencode(asked)}" if asked else "")
        with _served(url) as (served, model):
            cookie = served.cookie(who)
            first = _look(served, address, cookie, spent)
            application.MARKS_S = 0.0
            others = []
            for _ in range(_REPEATED):
                # A view asks for the overview several times, and gets the one of this second.
                model._observer._latest = None
                others.append(_look(served, address, cookie, spent))
            application.MARKS_S = 5.0
        found[name] = {
            "status": first["status"],
            "first sql": first["sql"],
            "first byte": first["byte"],
            **{what: median(one[what] for one in others) for what in ("sql", "byte")},
            **{f"least {what}": min(one[what] for one in others) for what in ("sql", "byte")},
            "first statements": first["statements"],
            "statements": others[-1]["statements"],
        }
    return found


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
