"""A worker whose database is away, comes back, or is not fit to work on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from app.celery_app import celery_app, create_app
from app.core.settings import Settings
from environment.temporary import TemporaryCluster
from environment.waiting import wait_until
from environment.worker import WorkerProcess

DEADLINE_S = 60


@pytest.fixture
def own_cluster(private_cluster: TemporaryCluster, migrate: Any) -> TemporaryCluster:
    """A server of this test alone, since it is stopped and killed."""
    migrate(private_cluster.url())
    return private_cluster


@pytest.fixture
def worker(own_cluster: TemporaryCluster, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker that has not been started yet."""
    worker = WorkerProcess(own_cluster.url(), state=tmp_path, log=tmp_path / "log")
    yield worker
    worker.stop()


def ping(url: str) -> str:
    app = create_app(Settings(database_url=url, _env_file=None))
    try:
        return str(app.tasks["app.tasks.housekeeping.ping"].delay().get(timeout=DEADLINE_S)["status"])
    finally:
        app.close()
        celery_app.set_current()


def test_an_unreachable_database_is_named_and_waited_for(own_cluster: TemporaryCluster, worker: WorkerProcess) -> None:
    own_cluster.stop()
    worker.start()
    wait_until(lambda: worker.log_text().count("cannot be reached") >= 2, DEADLINE_S, "two tries")
    assert f"{own_cluster.sockets}/skeldir_validation cannot be reached" in worker.log_text().replace(
        f":{own_cluster.port}", ""
    )
    assert not worker.is_ready()
    own_cluster.start()
    worker.wait_ready(DEADLINE_S)
    assert ping(own_cluster.url()) == "ok"
    assert "Traceback" not in worker.log_text()


def test_a_worker_that_waits_for_its_database_ends_on_term(
    own_cluster: TemporaryCluster, worker: WorkerProcess
) -> None:
    own_cluster.stop()
    worker.start()
    wait_until(lambda: "cannot be reached" in worker.log_text(), DEADLINE_S, "the first try")
    assert worker.stop(deadline_s=15) == 0


@pytest.mark.parametrize("fault", ["restart", "kill"])
def test_a_database_that_went_away_costs_no_task(
    own_cluster: TemporaryCluster, worker: WorkerProcess, fault: str
) -> None:
    worker.start()
    worker.wait_ready(DEADLINE_S)
    assert ping(own_cluster.url()) == "ok"
    if fault == "kill":
        own_cluster.kill()
        own_cluster.start()
    else:
        own_cluster.stop()
        wait_until(lambda: "Cannot reach the broker" in worker.log_text(), DEADLINE_S, "the worker to notice")
        own_cluster.start()
    assert ping(own_cluster.url()) == "ok"
    assert worker.process.poll() is None


def refusal(worker: WorkerProcess, word: str) -> str:
    """The line with that word which a worker says that ends as one whose configuration is wrong."""
    worker.start()
    wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the worker to end")
    assert worker.process.returncode == 78
    (line,) = [line for line in worker.log_text().splitlines() if word in line]
    return line


@pytest.mark.parametrize("table", ["kombu_message", "celery_taskmeta"])
def test_missing_tables_end_the_worker_with_the_command_to_run(
    own_cluster: TemporaryCluster, worker: WorkerProcess, table: str
) -> None:
    with psycopg2.connect(own_cluster.superuser_url.replace("/postgres?", "/skeldir_validation?")) as connection:
        connection.cursor().execute(f"DROP TABLE public.{table}")
    line = refusal(worker, "lacks")
    assert table in line
    assert "alembic upgrade head" in line
    assert "Traceback" not in worker.log_text()


@pytest.mark.parametrize("where", ["role", "url"])
def test_a_search_path_that_leads_elsewhere_is_told(own_cluster: TemporaryCluster, tmp_path: Path, where: str) -> None:
    url = own_cluster.url()
    if where == "url":
        url += "&options=-csearch_path%3Dnowhere"
    else:
        with psycopg2.connect(own_cluster.superuser_url) as connection:
            connection.cursor().execute("ALTER ROLE app_user IN DATABASE skeldir_validation SET search_path = nowhere")
    worker = WorkerProcess(url, state=tmp_path, log=tmp_path / "log")
    try:
        line = refusal(worker, "search_path")
        assert "the search_path of app_user, 'nowhere', does not lead to kombu_queue, " in line
        assert "ALTER ROLE app_user IN DATABASE skeldir_validation SET search_path = public" in line
        assert "Traceback" not in worker.log_text()
    finally:
        worker.stop()


def test_a_role_without_the_grants_is_told_which(own_cluster: TemporaryCluster, tmp_path: Path) -> None:
    with psycopg2.connect(own_cluster.superuser_url) as connection:
        connection.cursor().execute("CREATE ROLE guest LOGIN")
    worker = WorkerProcess(own_cluster.url("guest"), state=tmp_path, log=tmp_path / "log")
    try:
        line = refusal(worker, "lacks")
        assert "the role guest of DATABASE_URL lacks SELECT on kombu_queue, kombu_message" in line
        assert "USAGE on queue_id_sequence" in line
        assert "GRANT celery_worker TO guest" in line
        assert "Traceback" not in worker.log_text()
    finally:
        worker.stop()


@pytest.mark.parametrize("url", ["", "redis://:hunter2@h/0", "postgresql://u:hunter2@h"])
def test_the_celery_command_says_in_one_line_what_is_wrong_with_the_url(url: str, tmp_path: Path) -> None:
    worker = WorkerProcess(url, state=tmp_path, log=tmp_path / "log", environment={"SKELDIR_PROJECT": str(tmp_path)})
    worker.start()
    wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the command to end")
    assert worker.process.returncode == 78
    (line,) = worker.log_text().splitlines()
    assert line.startswith("DATABASE_URL")
    assert "hunter2" not in line


def test_in_production_a_superuser_may_not_serve_tenants(own_cluster: TemporaryCluster, tmp_path: Path) -> None:
    url = own_cluster.url("postgres")
    worker = WorkerProcess(url, state=tmp_path, log=tmp_path / "log", environment={"ENVIRONMENT": "production"})
    try:
        worker.start()
        wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the worker to end")
        assert worker.process.returncode == 78
        assert "superuser or has BYPASSRLS" in worker.log_text()
    finally:
        worker.stop()
