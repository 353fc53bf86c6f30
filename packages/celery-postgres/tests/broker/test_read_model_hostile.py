"""The read model on rows that nobody thought of, through a pooler, in a forked child and as another role."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from celery_postgres import SchemaError
from celery_postgres.database.reader import Reader
from celery_postgres.readmodel import ReadModel, State, TaskFilter, Unavailable
from environment.testkit.databases import as_role
from environment.testkit.kombu_programs import environment
from environment.testkit.pooler import Pooler
from environment.testkit.tables import run

QUEUE = "INSERT INTO kombu_queue (id, name) VALUES (1, 'q'), (2, repeat('\u00fc', 200)), (3, '<b>')"
MESSAGE = "INSERT INTO kombu_message (payload, queue_id{columns}) VALUES ({payload}, 1{values})"
DEAD = "INSERT INTO kombu_dead_letter (message_id, failures, reason, payload{columns})"
DEAD += " VALUES (1, 1, 'r', {payload}{values})"
META = "INSERT INTO celery_taskmeta (id, task_id, status{columns})"
META += " VALUES (nextval('task_id_sequence'), {id}, {status}{values})"
PAYLOADS = {
    "nothing": "''",
    "no JSON": "'{{{{'",
    "a number": "'3'",
    "a name that is too long": """'{"headers": {"task": "' || repeat('x', 100000) || '"}}'""",
    "half of a pair": r"""'{"headers": {"task": "a\ud800"}, "properties": {}}'""",
    "an escape that is none": r"""'{"headers": {"task": "a\x"}, "properties": {}}'""",
    "nested": "repeat('[', 100000)",
    "headers that are a list": """'{"headers": [1], "properties": {}}'""",
    "a body that is no base64": """'{"body": "\u00fc", "headers": {"task": 3}, "properties":"""
    """ {"body_encoding": "base64"}}'""",
    "a body of another form": """'{"body": "[1, 2, 3]", "headers": {"retries": "x", "root_id": {}},"""
    """ "properties": {}}'""",
    "arguments that are no list": """'{"body": "[1, [2]]", "headers": {"expires": 7}, "properties": {}}'""",
}
TIMES = ("infinity", "-infinity", "4713-01-01 BC", "294276-12-31", "0001-01-01", "9999-12-31 23:59:59")


@pytest.fixture
def url(plain_database: Any) -> str:
    return str(plain_database.url)


@pytest.fixture
def model(url: str) -> Iterator[ReadModel]:
    model = ReadModel(url)
    yield model
    model.close()


def fill(url: str) -> None:
    statements = [QUEUE]
    for number, payload in enumerate(PAYLOADS.values()):
        columns = {"columns": ", task_id", "values": f", 'id-{number:08}'", "payload": payload}
        statements += [MESSAGE.format(**columns), DEAD.format(**columns)]
    statements += [
        MESSAGE.format(payload="'{}'", columns=", enqueued_at", values=", NULL"),
        MESSAGE.format(payload="'{}'", columns=", id", values=", -5"),
        "INSERT INTO kombu_message (payload, queue_id) VALUES ('{}', 99)",
        MESSAGE.format(payload="'{}'", columns=", visible, consumer_id", values=", false, 7"),
        META.format(id="NULL", status="'SUCCESS'", columns=", date_done", values=", now()"),
        META.format(id="'no state'", status="NULL", columns=", date_done", values=", now()"),
        META.format(id="'own state'", status="'HALFWAY'", columns=", traceback", values=", 'no traceback'"),
        META.format(id="'no time'", status="'FAILURE'", columns=", children", values=", '\\xff00'"),
    ]
    for time in TIMES:
        statements.append(DEAD.format(payload="'{}'", columns=", died_at", values=f", '{time}'"))
        statements.append(META.format(id=f"'{time}'", status="'FAILURE'", columns=", date_done", values=f", '{time}'"))
    run(url, *statements)


def test_no_row_breaks_a_view(model: ReadModel, url: str) -> None:
    fill(url)
    overview = model.overview()
    assert {one.name for one in overview.queues} >= {"q", "\u00fc" * 200, "<b>"}
    detail = model.queue("q")
    assert detail is not None
    shown: list[Any] = [asdict(overview), asdict(detail), *(asdict(one) for one in model.dead_letters().groups)]
    for state in (None, *State):
        for queue in (None, "q"):
            cursor = None
            for _ in range(50):
                page = model.tasks(TaskFilter(state=state, queue=queue), cursor, limit=7)
                shown.append(asdict(page))
                cursor = page.next
                if cursor is None:
                    break
            assert cursor is None
    ids = [*model.find("id-00000"), "no state", "own state", "no time", *TIMES]
    assert len(ids) == len(PAYLOADS) + 3 + len(TIMES)
    shown += [asdict(found) for task_id in ids if (found := model.task(task_id)) is not None]
    json.dumps(shown, default=str).encode()


def test_through_a_transaction_pooler_it_only_reads(server: Any, url: str) -> None:
    if server.tcp is None:
        pytest.skip("the server of DATABASE_URL is not ours: it may ask for a password")
    with Pooler(url) as pooler:
        reader = Reader(pooler.url)
        for _ in range(3):
            with pytest.raises(Unavailable, match="read-only transaction"):
                reader.run("block_task", task="x")
        reader.close()
        model = ReadModel(pooler.url)
        assert (model.overview().queues, model.tasks().rows) == ((), ())
        model.close()


FORK = """
import os, sys
from celery_postgres.readmodel import ReadModel
model = ReadModel(sys.argv[1])
assert model.overview().queues == ()
child = os.fork()
if child == 0:
    code = 1
    try:
        code = len(model.tasks().rows)
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert model.tasks().rows == ()
"""


def test_a_forked_child_has_connections_of_its_own(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, url], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_role_without_rights_is_told_in_one_line(server: Any, plain_database: Any) -> None:
    if server.superuser_url is None:
        pytest.skip("needs another role, and roles can be made on our own server only")
    name = f"looker_{secrets.token_hex(4)}"
    run(server.superuser_url, f"CREATE ROLE {name} LOGIN")
    looker = ReadModel(as_role(plain_database.url, name))
    with pytest.raises(SchemaError, match=f"the role {name} may not do what the statement view_") as raised:
        looker.overview()
    assert "\n" not in str(raised.value)
    looker.close()
    run(plain_database.superuser_url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")
