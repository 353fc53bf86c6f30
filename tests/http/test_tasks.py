"""What became of tasks, with a real worker: results, errors, lists, revocation; and what a crash leaves."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from environment.sources import CHECKOUT
from environment.testkit.databases import rows, run
from environment.testkit.tables import backends
from environment.validation import ONE_OF_EACH, exercise
from environment.waiting import wait_until
from tests.http.front import A, B, Front


@pytest.fixture(scope="module")
def worker(front: Front, start_module_worker: Any) -> Any:
    """A worker on the database of ``front``."""
    return start_module_worker(front.database_url)


# -- results


@pytest.mark.usefixtures("worker")
def test_every_kind_for_two_tenants(front: Front) -> None:
    listed = {
        path.removeprefix("/v1/tasks/")
        for path, operations in front.get("/openapi.json").json["paths"].items()
        if path.startswith("/v1/tasks/") and "post" in operations
    }
    assert set(ONE_OF_EACH) == listed
    exercise(f"http://127.0.0.1:{front.port}", {tenant: front.key(tenant) for tenant in (A, B)})


@pytest.mark.usefixtures("worker")
def test_a_failure_says_why_where_its_kind_quotes_nothing(front: Front) -> None:
    body = {**ONE_OF_EACH["app.tasks.llm.routing"], "max_cost_cents": 0}
    task = front.ended(front.submit("app.tasks.llm.routing", body).json["task_id"])
    assert (task["state"], task["result"]) == ("FAILURE", None)
    assert task["error"]["type"] == "CostLimitExceeded"
    assert "max_cost_cents" in task["error"]["message"]


# -- DELETE


def test_a_task_that_waits_is_revoked(make_front: Callable[..., Front], database: Any, start_worker: Any) -> None:
    """Recorded before it is done, and once; what cannot be recorded is not done."""
    front = make_front(database.url)
    task_id = front.submit().json["task_id"]
    other = front.submit().json["task_id"]
    run(database.url, "ALTER TABLE console_action RENAME TO elsewhere")
    assert front.request("DELETE", f"/v1/tasks/{task_id}").status == 500
    assert rows(database.url, "SELECT count(*) FROM kombu_message WHERE revoked") == [(0,)]
    run(database.url, "ALTER TABLE elsewhere RENAME TO console_action")
    assert front.request("DELETE", f"/v1/tasks/{task_id}", tenant=B).status == 404
    answer = front.request("DELETE", f"/v1/tasks/{task_id}")
    assert (answer.status, answer.json["state"]) == (202, "PENDING")
    assert front.request("DELETE", f"/v1/tasks/{task_id}").status == 202
    columns = "source, actor, action, subject, done, outcome, ended_at > began_at"
    assert rows(database.url, f"SELECT {columns} FROM console_action") == [  # noqa: S608
        ("http", f"test of tenant {A}", "revoke", task_id, 1, "The task is revoked.", True)
    ]
    start_worker(database.url)
    task = front.ended(task_id)
    assert (task["state"], task["result"]) == ("REVOKED", None)
    assert front.request("DELETE", f"/v1/tasks/{task_id}").status == 202
    assert front.ended(other)["state"] == "SUCCESS"


@pytest.mark.usefixtures("worker")
def test_a_task_that_has_ended_cannot_be_revoked(front: Front) -> None:
    task_id = front.submit().json["task_id"]
    front.ended(task_id)
    answer = front.request("DELETE", f"/v1/tasks/{task_id}")
    assert (answer.status, answer.code) == (409, "ended")


# -- the process and its database


def test_health(front: Front) -> None:
    answer = wait_until(lambda: a if (a := front.get("/health", tenant=None)).status == 200 else None, 60, "health")
    assert answer.json["broker"] == answer.json["database"] == answer.json["schema"] == "ok"
    assert front.get("/livez", tenant=None).status == 200


def test_other_paths_and_methods_are_problems_too(front: Front) -> None:
    assert (front.get("/nowhere").status, front.get("/nowhere").code) == (404, "not-found")
    slash = front.get("/v1/tasks/", headers={"Host": "localhost"})
    assert (slash.status, slash.code) == (404, "not-found")
    answer = front.request("PUT", "/v1/tasks")
    assert (answer.status, answer.code, answer.headers["allow"]) == (405, "method-not-allowed", "GET")
    assert front.request("OPTIONS", f"/v1/tasks/{uuid4()}").headers["allow"] == "DELETE, GET"
    for path, allowed in (("/", "GET"), ("/console", "GET"), ("/openapi.json", "GET, HEAD")):
        assert front.request("PUT", path).headers["allow"] == allowed
    long = front.get("/v1/tasks", headers={"X-Correlation-ID": "x" * 129})
    assert (long.status, long.code) == (400, "correlation-id")
    assert front.get("/livez", headers={"X-Correlation-ID": ""}).headers["x-correlation-id"]


def test_nothing_secret_is_in_the_log(front: Front) -> None:
    mark = f"s3cret-{secrets.token_hex(4)}"
    front.submit("app.tasks.llm.routing", {"payload": {"request": mark, "routes": ["a"]}})
    front.submit("app.tasks.llm.routing", {"payload": {"request": mark, "routes": [], mark: mark}})
    front.get(f"/v1/tasks/{mark}?cursor={mark}")
    front.get(f"/{mark}")
    front.request("POST", "/v1/tasks/app.tasks.llm.routing", f'{{"{mark}'.encode())
    log = front.log_text()
    assert mark not in log
    assert front.key().split("_", 2)[2] not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"http_status", "duration_ms", "correlation_id"} <= set(lines[-1])
    assert {line["service"] for line in lines} == {"skeldir-web"}


def test_a_database_that_is_away_is_503_and_its_return_needs_nothing(
    make_front: Callable[..., Front], private_cluster: Any, migrate: Callable[[str], None]
) -> None:
    migrate(private_cluster.url())
    front = make_front(private_cluster.url())
    first = front.submit()
    assert first.status == 202
    private_cluster.stop()
    away = front.submit()
    assert (away.status, away.code) == (503, "unavailable")
    assert int(away.headers["retry-after"]) > 0
    assert front.get("/livez").status == 200
    private_cluster.start()
    wait_until(lambda: front.submit().status == 202, 60, "submissions to be taken again")
    assert front.get(first.headers["location"]).json["state"] == "PENDING"


def test_whatever_was_accepted_survives_a_kill(make_front: Callable[..., Front], database: Any) -> None:
    """Killed in the middle of many submissions: each that was answered is there, whole; the others are whole or not."""
    front = make_front(database.url)
    front.key()
    accepted: list[str] = []

    def submit() -> None:
        try:
            while True:
                accepted.append(front.submit().json["task_id"])
        except (OSError, http.client.HTTPException):
            return  # the process is gone

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) > 40, 60, "some submissions")
    front.kill()
    front._socket.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    # What the server had got from it, the server ends.
    wait_until(lambda: backends(database.url, "skeldir-worker") == [], 60, "its connections to end")
    engine = create_engine(database.url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT set_config('app.current_tenant_id', :tenant, true)"), {"tenant": str(A)})
        noted = set(connection.execute(text("SELECT task_id FROM task_submission")).scalars())
    messages = {task_id for (task_id,) in rows(database.url, "SELECT task_id FROM kombu_message")}
    assert noted == messages
    assert set(accepted) <= noted


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DATABASE_URL", "redis://:s3cret@x/0"), ("TRACING_EXPORTER", "nothing.of:s3cret")],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, database: Any, variable: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "app.main:app"],
        env={**os.environ, "DATABASE_URL": database.url, "PYTHONPATH": str(CHECKOUT / "backend"), variable: value},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == os.EX_CONFIG
    assert len(done.stderr.splitlines()) == 1
    assert variable in done.stderr
    assert "s3cret" not in done.stderr
