"""Two tenants and nobody, in every pool, on one database connection per process: nobody sees another's tenant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from app.celery_app import celery_app, create_app
from app.core.settings import Settings

POOLS = {"solo": 1, "threads": 3, "prefork": 2}
A, B = str(uuid4()), str(uuid4())
ROUNDS = 6
DEADLINE_S = 60


@pytest.fixture(scope="module", params=POOLS)
def client(request: pytest.FixtureRequest, module_database: Any, start_module_worker: Any) -> Iterator[Celery]:
    pool = request.param
    start_module_worker(
        module_database.url,
        pool=pool,
        concurrency=POOLS[pool],
        args=["-I", "probe_tasks"],
        env={"PYTHONPATH": str(Path(__file__).parent), "DATABASE_POOL_SIZE": "1"},
    )
    app = create_app(Settings(database_url=module_database.url, _env_file=None))
    app.pool_name = pool
    yield app
    app.close()
    celery_app.set_current()


def test_nobody_sees_another_tenant(client: Celery) -> None:
    """Tasks of A, of B, of nobody, failing ones and ones that tamper, all at once and in any order."""
    sent = []
    for _ in range(ROUNDS):
        sent += [
            (A, client.send_task("probe.tenant", kwargs={"tenant_id": A, "correlation_id": "of-a"})),
            (None, client.send_task("probe.anybody")),
            ("fails", client.send_task("probe.fails", kwargs={"tenant_id": A})),
            (None, client.send_task("probe.anybody")),
            ("done", client.send_task("probe.leaves_a_session_tenant", kwargs={"tenant_id": A})),
            (B, client.send_task("probe.tenant", kwargs={"tenant_id": B, "correlation_id": "of-b"})),
            (None, client.send_task("probe.anybody")),
        ]
    wrong = []
    connections: dict[int, set[int]] = {}
    for expected, answer in sent:
        seen = answer.get(timeout=DEADLINE_S, propagate=False)
        if expected == "fails":
            assert answer.state == "FAILURE"
        elif expected == "done":
            assert answer.state == "SUCCESS"
        else:
            connections.setdefault(seen["pid"], set()).add(seen["backend"])
            correlation = {A: "of-a", B: "of-b", None: answer.id}[expected]
            if (seen["variable"], seen["guc"], seen["correlation_id"]) != (expected, expected, correlation):
                wrong.append((expected, seen))
    assert wrong == []
    # The test means something only if all shared one connection per process.
    assert all(len(backends) == 1 for backends in connections.values())
    assert len({backend for backends in connections.values() for backend in backends}) == len(connections)


def test_a_task_may_publish_from_where_it_runs(client: Celery) -> None:
    published = [client.send_task("probe.publishes") for _ in range(4)]
    ids = [answer.get(timeout=DEADLINE_S) for answer in published]
    for task_id in ids:
        assert client.AsyncResult(task_id).get(timeout=DEADLINE_S)["guc"] is None
