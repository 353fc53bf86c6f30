"""The canvas of a task: what was sent by what, and what is to come, as a graph and as a list."""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from celery_postgres.readmodel import ReadModel
from celery_postgres.readmodel.canvas import MOST
from environment.testkit import night
from environment.testkit.console import Console
from environment.testkit.stock_rows import payload
from environment.testkit.tables import run


@pytest.fixture(scope="module", autouse=True)
def _chain(module_database: Any, served: Console) -> None:
    night.canvas(module_database.url)


def members(model: ReadModel, task_id: str) -> list[tuple[str | None, str | None, int]]:
    found = model.task(task_id)
    assert found is not None
    canvas = model.canvas(found)
    assert canvas is not None
    return [(one.name, None if one.state is None else str(one.state), one.depth) for one in canvas.members]


def test_a_canvas_is_the_same_from_each_of_its_tasks(module_database: Any, served: Console) -> None:
    failed = night.task_id("canvas explain")
    with closing(ReadModel(module_database.url)) as model:
        whole = members(model, failed)
        assert whole[0] == ("app.tasks.imports.fetch", "succeeded", 0)
        assert set(whole[1:]) == {
            ("app.tasks.llm.budget", "succeeded", 1),
            ("app.tasks.llm.explanation", "failed", 1),
            ("app.tasks.llm.routing", "waiting", 1),
            ("reports.compose", None, 2),
            ("mail.send", None, 3),
        }
        for name in ("fetch", "budget", "route"):
            assert members(model, night.task_id(f"canvas {name}")) == whole
    page = served.get(f"/task?id={failed}").text
    section = page.partition('id="ca"')[2].partition("</section>")[0]
    assert section.count("<rect") == 6
    assert "Failed, this task" in section
    assert section.count("To come") == 2
    assert re.search(r"then 3 at once", section)
    assert f"/task?id={night.task_id('canvas budget')}" in section
    assert "style=" not in section
    alone = served.get(f"/task?id={served.night.ids['failed']}").text
    assert 'id="ca"' not in alone


def test_a_tenant_sees_no_task_of_another_in_a_canvas(module_database: Any, served: Console) -> None:
    """The root of a tenant's task is another's, as if that had sent it."""
    mine, others = served.night.ids["failed"], night.task_id("canvas of others")
    with closing(psycopg2.connect(module_database.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(night._MEMBER, [others, "SUCCESS", "secretive", None, None, None])
        cursor.execute("UPDATE celery_taskmeta SET tenant_id = %s WHERE task_id = %s", [str(night.BOREALIS), others])
        cursor.execute(
            "UPDATE celery_taskmeta SET root_id = %s, parent_id = %s WHERE task_id = %s", [others, others, mine]
        )
    try:
        assert "secretive" in served.get(f"/task?id={mine}", "reader").text
        assert "secretive" not in served.get(f"/task?id={mine}", "tenant A").text
    finally:
        run(module_database.url, "UPDATE celery_taskmeta SET root_id = NULL, parent_id = NULL WHERE name = 'llm'")


def test_nothing_that_a_producer_writes_breaks_it(module_database: Any, served: Console) -> None:
    hostile: list[Any] = [
        *({}, [], [1], [1, 2, 3], [[], {}, {"chain": 7}], [[], {}, {"chain": [7, None]}], [[], {}, {"chord": "x"}]),
        [
            [],
            {},
            {"chain": [{"task": "<script>alert(1)</script>", "options": []}, {"task": 9, "options": {"task_id": 9}}]},
        ],
        [[], {}, {"chain": [{"task": "t", "options": {"task_id": "x" * 5_000}}] * 3_000}],
        [[], {}, {"chain": [{"task": "own", "options": {"task_id": night.task_id("hostile 9")}}]}],
    ]
    with closing(psycopg2.connect(module_database.url)) as connection, connection, connection.cursor() as cursor:
        for number, body in enumerate(hostile):
            identity = night.task_id(f"hostile {number}")
            headers = {"task": "t", "id": identity, "root_id": identity, "parent_id": identity}
            cursor.execute(
                "INSERT INTO kombu_message (queue_id, payload, task_id) SELECT id, %s, %s FROM kombu_queue"
                " WHERE name = 'celery'",
                [payload(body, "celery", **headers), identity],
            )
    for number in range(len(hostile)):
        answer = served.get(f"/task?id={night.task_id(f'hostile {number}')}")
        assert answer.status == 200, number
        assert "<script>alert" not in answer.text


def test_a_message_that_is_too_long_or_withheld_has_its_name(module_database: Any, served: Console) -> None:
    root, waits = night.task_id("canvas fetch"), night.task_id("canvas route")
    withheld = '{"withheld": 812, "task": "app.tasks.llm.withheld"}'
    with closing(psycopg2.connect(module_database.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT payload FROM kombu_message WHERE task_id = %s", [waits])
        ((before,),) = cursor.fetchall()
        cursor.execute("UPDATE kombu_message SET payload = %s WHERE task_id = %s", [withheld, waits])
        connection.commit()
        with closing(ReadModel(module_database.url)) as model:
            assert ("app.tasks.llm.withheld", "waiting", 1) in members(model, root)
        cursor.execute("UPDATE kombu_message SET payload = %s WHERE task_id = %s", [before, waits])


def test_a_large_canvas_is_a_list_that_says_there_is_more(module_database: Any, served: Console) -> None:
    root = night.task_id("canvas large")
    with closing(psycopg2.connect(module_database.url)) as connection, connection, connection.cursor() as cursor:
        ring = [(f"large-{n}", "SUCCESS", "a.b", root, f"large-{n - 1 if n else 299}", None) for n in range(300)]
        sent = json.dumps([[f"large-{n}", None] for n in range(300)]).encode()
        cursor.executemany(night._MEMBER, [*ring, (root, "SUCCESS", "a.root", None, None, sent)])
    page = served.get(f"/task?id={root}")
    assert page.status == 200
    assert f"{MOST} tasks of this canvas are shown; there are more" in page.text
    assert "<rect" not in page.text.partition('id="ca"')[2].partition("</section>")[0]
