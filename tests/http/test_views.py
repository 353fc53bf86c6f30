"""A task as its tenant sees it, without a worker: lists, and rows as somebody may have written them."""

from __future__ import annotations

import pickle
from base64 import urlsafe_b64encode
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from celery_postgres.results.serializer import dump
from environment.testkit.databases import run
from tests.http.front import B, Front


def test_the_words_of_any_other_error_stay_where_they_are(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    store(front, task_id, "FAILURE", {"exc_type": "ValueError", "exc_message": ("s3cret",), "exc_module": "builtins"})
    answer = front.get(f"/v1/tasks/{task_id}")
    assert answer.json["error"] == {"type": "ValueError", "message": None}
    assert "s3cret" not in answer.body.decode()


def test_a_result_that_would_execute_something_is_not_read(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    store(front, task_id, "SUCCESS", b"cos\nsystem\n(S'true'\ntR.")
    task = front.get(f"/v1/tasks/{task_id}").json
    assert (task["state"], task["result"], task["error"]["type"]) == ("SUCCESS", None, "UnreadableResult")


@pytest.mark.parametrize(
    "value", [dump(b"s3cret\xff"), ["s3cret\ud800"], {"s3cret": b"\xff"}], ids=["bytes", "text", "inside"]
)
def test_a_result_that_json_cannot_say_is_not_shown(front: Front, value: Any) -> None:
    task_id = front.submit().json["task_id"]
    store(front, task_id, "SUCCESS", value)
    answer = front.get(f"/v1/tasks/{task_id}")
    assert (answer.json["state"], answer.json["error"]["type"]) == ("SUCCESS", "UnreadableResult")
    assert "s3cret" not in answer.body.decode()


def pickled(value: Any) -> bytes:
    """`value` as a hostile worker may store it: in the place of "ODD" a UUID without its number, whose text fails."""
    return pickle.dumps(value, protocol=2).replace(b"X\x03\x00\x00\x00ODD", b"cuuid\nUUID\n)\x81")


@pytest.mark.parametrize(
    ("status", "value"),
    [
        ("SUCCESS", pickled("ODD")),
        ("SUCCESS", pickled({"ODD": ["ODD"]})),
        ("FAILURE", pickled({"exc_type": "TenantError", "exc_module": "app.tasks.context", "exc_message": ("ODD",)})),
        ("FAILURE", pickled({"exc_type": "ODD", "exc_module": "app.tasks.context", "exc_message": ()})),
        ("FAILURE", pickled({"exc_type": "x", "exc_module": "ODD", "exc_message": ()})),
        ("FAILURE", b"\x80\x02."),
        ("SUCCESS", b'{"cut'),
        ("SUCCESS", pickle.dumps(1 << 1_600_000)),
        ("SUCCESS", pickle.dumps([{1 << 1_600_000: 1}])),
        ("SUCCESS", pickle.dumps(frozenset([-(1 << 20_000)]))),
        ("FAILURE", pickle.dumps({"exc_type": 1 << 1_600_000, "exc_message": [1 << 1_600_000]})),
    ],
)
def test_whatever_is_stored_is_shown(front: Front, status: str, value: bytes) -> None:
    task_id = front.submit().json["task_id"]
    store(front, task_id, status, value)
    answer = front.get(f"/v1/tasks/{task_id}")
    assert (answer.status, answer.json["state"], answer.json["error"]["type"]) == (200, status, "UnreadableResult")
    with front.events(task_id) as stream:
        assert b"UnreadableResult" in stream.read()


def test_an_integer_that_python_itself_would_write_is_shown(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    store(front, task_id, "SUCCESS", [10**4_299, -7])
    assert front.get(f"/v1/tasks/{task_id}").json["result"] == [10**4_299, -7]


def test_only_errors_that_quote_nothing_are_quoted(front: Front) -> None:
    """By their names alone: no module is asked for what somebody wrote into a row."""
    for module, name, shown in (
        ("app.tasks.context", "TenantError", "no tenant"),
        ("app.tasks.context", "__name__", None),
        ("app.tasks.context", "get_settings", None),
        ("celery", "Celery", None),
        ("builtins", "ValueError", None),
    ):
        task_id = front.submit().json["task_id"]
        store(front, task_id, "FAILURE", {"exc_type": name, "exc_module": module, "exc_message": ("no", "tenant")})
        assert front.get(f"/v1/tasks/{task_id}").json["error"] == {"type": name, "message": shown}


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 12:00 BC", "12026-01-01"])
def test_a_time_that_python_does_not_know(front: Front, moment: str) -> None:
    task_id = front.submit(tenant=B).json["task_id"]
    store(front, task_id, "SUCCESS", {"answer": 42}, moment)
    task = front.get(f"/v1/tasks/{task_id}", tenant=B).json
    assert (task["state"], task["result"], task["done_at"]) == ("SUCCESS", {"answer": 42}, None)
    assert front.get("/v1/tasks", tenant=B).status == 200
    with front.events(task_id, tenant=B) as stream:
        assert b'"answer":42' in stream.read()


def test_a_task_without_message_and_result_is_unknown(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    run(front.database_url, "DELETE FROM kombu_message")
    assert front.get(f"/v1/tasks/{task_id}").json["state"] == "UNKNOWN"


def store(front: Front, task_id: str, status: str, result: Any, moment: str = "now") -> None:
    """A row of Celery's result table, as somebody may have written it; the message is gone."""
    engine = create_engine(front.database_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM kombu_message WHERE task_id = :id"), {"id": task_id})
        connection.execute(
            text(
                "INSERT INTO celery_taskmeta (id, task_id, status, result, date_done)"
                " VALUES (nextval('task_id_sequence'), :id, :status, :result, CAST(:moment AS timestamp))"
            ),
            {
                "id": task_id,
                "status": status,
                "result": result if isinstance(result, bytes) else dump(result),
                "moment": moment,
            },
        )


# -- lists


def test_pages_follow_each_other_whatever_comes_meanwhile(front: Front) -> None:
    tenant = uuid4()
    sent = [front.submit(tenant=tenant).json["task_id"] for _ in range(7)]
    first = front.get("/v1/tasks?limit=3", tenant=tenant).json
    front.submit(tenant=tenant)
    second = front.get(f"/v1/tasks?limit=3&cursor={first['next_cursor']}", tenant=tenant).json
    third = front.get(f"/v1/tasks?limit=3&cursor={second['next_cursor']}", tenant=tenant).json
    seen = [task["task_id"] for page in (first, second, third) for task in page["items"]]
    assert seen == sent[::-1]
    assert third["next_cursor"] is None
    assert {"result", "error"}.isdisjoint(first["items"][0])


def test_tasks_of_one_moment_are_neither_lost_nor_shown_twice(front: Front) -> None:
    tenant = uuid4()
    sent = {front.submit(tenant=tenant).json["task_id"] for _ in range(5)}
    run(
        front.database_url,
        f"SELECT set_config('app.current_tenant_id', '{tenant}', false)",
        "UPDATE task_submission SET created_at = '2026-01-01'",
    )
    seen, cursor = [], ""
    while cursor is not None:
        page = front.get(f"/v1/tasks?limit=2{cursor and '&cursor='}{cursor}", tenant=tenant).json
        seen += [task["task_id"] for task in page["items"]]
        cursor = page["next_cursor"]
    assert len(seen) == len(set(seen))
    assert set(seen) == sent


@pytest.mark.parametrize(
    ("query", "status"),
    [("limit=0", 422), ("limit=101", 422), ("limit=x", 422), ("cursor=x", 404), ("cursor=W10", 404), ("cursor=", 404)],
)
def test_a_wrong_page_is_refused(front: Front, query: str, status: int) -> None:
    answer = front.get(f"/v1/tasks?{query}")
    assert answer.status == status
    assert answer.code in ("invalid", "no-such-page")


@pytest.mark.parametrize("content", ['["2026-01-01T00:00:00+23:00", "x"]', r'["2026-01-01T00:00:00+00:00", "\ud800"]'])
def test_a_cursor_that_somebody_made_up_is_no_failure_of_ours(front: Front, content: str) -> None:
    answer = front.get(f"/v1/tasks?cursor={urlsafe_b64encode(content.encode()).decode()}")
    assert answer.status in (200, 404)
