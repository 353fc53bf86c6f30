"""Each page reads each thing once: counted by the statements of a first look, at which nothing has been read yet."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl

import pytest

from celery_postgres import console, operations
from celery_postgres.console.looking import Look
from celery_postgres.console.views import VIEWS
from celery_postgres.database.reader import Reader
from celery_postgres.readmodel import ReadModel
from environment.testkit import night
from environment.testkit.console import Console, Owners
from environment.testkit.databases import run

OPERATOR = console.Viewer(console.Role.OPERATOR, "operator", "operator")
TENANT = console.Viewer(console.Role.TENANT, "tenant A", "t:tenant A", tenant=night.ACME)
#: What a page may read more than once: queues are counted in steps, each of which goes further with fewer of them; and
#: what is blocked is a few rows, read again so that who has just blocked a task sees it.
OFTEN = {"view_queues": 3, "blocked_tasks": 2}
KINDS = ("waiting", "scheduled", "running", "failed", "succeeded", "dead")


def addresses(served: Console) -> dict[console.Viewer, list[str]]:
    """Every view, with what it can be asked for."""
    ids = served.night.ids
    return {
        OPERATOR: [
            *("", "?span=week", "queues", "queue?name=llm", "queue?name=llm&span=day", "tasks", "dead", "workers"),
            *("schedules", "limits", "limits?key=a", "limit?queue=keyed&key=a", "actions", "act?do=pause&queue=llm"),
            *(f"tasks?state={state}" for state in KINDS),
            *(f"task?id={ids[kind]}" for kind in KINDS),
            *("dead?reason=expired&task=app.tasks.llm.explanation", "dead?reason=rejected"),
            *(f"find?q={ids['failed']}", "find?q=llm", "find?q=explanation"),
        ],
        TENANT: ["tasks", f"task?id={ids['failed']}", f"find?q={ids['failed']}", "dead", "limits"],
    }


def test_each_page_reads_each_thing_once(served: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[str] = []
    execute = Reader.run

    def counted(reader: Reader, name: str, **parameters: Any) -> Any:
        executed.append(name)
        return execute(reader, name, **parameters)

    monkeypatch.setattr(Reader, "run", counted)
    run(served.database_url, "INSERT INTO kombu_queue (name, fair) VALUES ('keyed', true)")
    views = {view.path: view for view in VIEWS}
    seen = set()
    for viewer, paths in addresses(served).items():
        for path in paths:
            name, _, query = path.partition("?")
            executed.clear()
            with closing(ReadModel(served.database_url)) as model, operations.connect(served.database_url) as broker:
                source = console.Source(model, Owners(model, {night.ACME: [served.night.ids["failed"]]}), broker)
                views[name].show(Look(viewer, source, dict(parse_qsl(query)), ""))
            often = {one: times for one, times in Counter(executed).items() if times > OFTEN.get(one, 1)}
            assert not often, path
            seen.add(name)
    assert seen == set(views)
    run(served.database_url, "DELETE FROM kombu_queue WHERE name = 'keyed'")
