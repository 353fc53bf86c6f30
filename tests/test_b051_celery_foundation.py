"""Acceptance of the foundation, against a real worker process and a real PostgreSQL.

With DATABASE_URL and a worker that runs on it (its worker.json in the state folder), that worker is used; else
one is started on a temporary database. All of it stays in one xdist group: it is one worker.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from app.celery_app import _build_broker_url, _build_result_backend, celery_app, create_app
from app.core.settings import Settings
from app.db.engine import build_engine
from app.db.tenancy import get_tenant_guc
from app.tasks.context import PayloadError, tenant_task

pytestmark = pytest.mark.xdist_group("foundation")

TASKS = {
    "app.tasks.housekeeping.ping",
    "app.tasks.llm.budget",
    "app.tasks.llm.explanation",
    "app.tasks.llm.investigation",
    "app.tasks.llm.routing",
    "app.tasks.maintenance.apply_retention",
    "app.tasks.maintenance.refresh_materialized_views",
    "app.tasks.maintenance.scrub_pii",
}
RESULT_DEADLINE_S = 30


@pytest.fixture(scope="module")
def settings(foundation_worker: Any) -> Settings:
    return Settings(database_url=foundation_worker.database_url, _env_file=None)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Any:
    """The application as a publisher uses it, on the worker's database."""
    app = create_app(settings)
    yield app
    app.close()
    celery_app.set_current()


def get(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  # our own loopback URL
        return response.status, response.read().decode()


def result_row(settings: Settings, task_id: str) -> Any:
    engine = create_engine(settings.dsn.url(), poolclass=NullPool)
    with engine.connect() as connection:
        return connection.execute(
            text("SELECT status, date_done FROM public.celery_taskmeta WHERE task_id = :id"), {"id": task_id}
        ).one_or_none()


def test_broker_and_results_are_postgresql_and_nothing_else(settings: Settings) -> None:
    assert celery_app.conf.broker_url.startswith("sqla+postgresql://")
    assert celery_app.conf.result_backend.startswith("db+postgresql://")
    asyncpg = Settings(database_url="postgresql+asyncpg://a:b@localhost:5432/skeldir_validation", _env_file=None)
    assert _build_broker_url(asyncpg) == "sqla+postgresql://a:b@localhost:5432/skeldir_validation"
    assert _build_result_backend(asyncpg) == "db+postgresql://a:b@localhost:5432/skeldir_validation"


def test_registered_tasks_include_stubs() -> None:
    assert set(celery_app.tasks.keys()) >= TASKS
    assert {name for name in celery_app.tasks if name.startswith("app.")} == TASKS


def test_only_json_is_accepted() -> None:
    conf = celery_app.conf
    assert conf.accept_content == conf.result_accept_content == ["json"]
    assert conf.task_serializer == conf.result_serializer == conf.event_serializer == "json"


def test_ping_task_runs_and_persists_result(client: Any, settings: Settings, foundation_worker: Any) -> None:
    sent = client.tasks["app.tasks.housekeeping.ping"].delay()
    answer = sent.get(timeout=RESULT_DEADLINE_S)
    assert answer["status"] == "ok"
    row = result_row(settings, sent.id)
    assert row.status == "SUCCESS"
    assert row.date_done is not None

    status, metrics = get(f"{foundation_worker.metrics_url}/metrics")
    assert status == 200
    assert 'celery_tasks_total{queue="celery",state="success",task="app.tasks.housekeeping.ping"}' in metrics
    status, body = get(f"{foundation_worker.metrics_url}/health")
    health = json.loads(body)
    assert (status, health["broker"], health["database"]) == (200, "ok", "ok")


def test_ping_respects_a_tenant(client: Any) -> None:
    tenant_id = str(uuid4())
    answer = client.tasks["app.tasks.housekeeping.ping"].delay(tenant_id=tenant_id, correlation_id="acceptance")
    result = answer.get(timeout=RESULT_DEADLINE_S)
    assert (result["tenant_id"], result["correlation_id"]) == (tenant_id, "acceptance")


def test_tenant_task_enforces_and_sets_guc(settings: Settings) -> None:
    engine = build_engine(settings)

    @celery_app.task(bind=True, name="test.tenant_guc_echo")
    @tenant_task
    def echo(self: Any, tenant_id: str, correlation_id: str | None = None) -> str:
        with engine.connect() as connection:
            return str(get_tenant_guc(connection))

    try:
        with pytest.raises(ValueError, match="tenant_id is missing"):
            echo.apply(throw=True)
        tenant_id = str(uuid4())
        assert echo.apply(kwargs={"tenant_id": tenant_id}, throw=True).get() == tenant_id
        with engine.connect() as connection:
            assert get_tenant_guc(connection) is None
    finally:
        celery_app.tasks.pop("test.tenant_guc_echo")
        engine.dispose()


def test_a_raw_message_without_a_tenant_fails_once_and_the_worker_goes_on(client: Any, settings: Settings) -> None:
    """`send_task` knows nothing of our checks, as another program's producer would not."""
    sent = client.send_task("app.tasks.llm.routing", kwargs={"payload": {}})
    error = sent.get(timeout=RESULT_DEADLINE_S, propagate=False)
    assert "tenant_id is missing" in str(error)
    assert result_row(settings, sent.id).status == "FAILURE"
    assert client.tasks["app.tasks.housekeeping.ping"].delay().get(timeout=RESULT_DEADLINE_S)["status"] == "ok"


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("llm.routing", {"payload": {"request": "r", "routes": ["a"], "more": 1}}),
        ("llm.routing", {"payload": {"request": "r", "routes": ["a"]}, "max_cost_cents": -1}),
        ("maintenance.scrub_pii", {"dry_run": "false"}),
        ("maintenance.apply_retention", {"dry_run": 0}),
    ],
)
def test_wrong_arguments_are_refused_before_they_are_sent(client: Any, task: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(PayloadError):
        client.tasks[f"app.tasks.{task}"].delay(tenant_id=str(uuid4()), **arguments)


def test_llm_tasks_run_for_a_tenant(client: Any) -> None:
    answer = client.tasks["app.tasks.llm.routing"].delay(
        payload={"request": "refund", "routes": ["billing", "fraud"]}, tenant_id=str(uuid4()), max_cost_cents=5
    )
    assert answer.get(timeout=RESULT_DEADLINE_S)["route"] in {"billing", "fraud"}


def test_maintenance_dry_run_changes_nothing(client: Any) -> None:
    answer = client.tasks["app.tasks.maintenance.apply_retention"].delay(tenant_id=str(uuid4()))
    assert answer.get(timeout=RESULT_DEADLINE_S)["dry_run"] is True


def test_the_tables_of_the_contract_are_in_public(settings: Settings) -> None:
    engine = create_engine(settings.dsn.url(), poolclass=NullPool)
    with engine.connect() as connection:
        tables = set(connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars())
    assert tables >= {"celery_taskmeta", "celery_tasksetmeta", "kombu_message", "kombu_queue"}
