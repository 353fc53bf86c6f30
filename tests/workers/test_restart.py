"""HUP: a worker drains, and begins anew in the same process with the same command line."""

from __future__ import annotations

import os
import signal
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from app.celery_app import celery_app, create_app
from app.core.settings import Settings
from environment.sources import CHECKOUT
from environment.waiting import wait_until
from environment.worker import APPLICATION, WorkerProcess

DEADLINE_S = 60


@pytest.mark.parametrize("how", ["word", "equals", "variable"])
def test_hup_restarts_a_worker_that_was_started_from_another_folder(database: Any, tmp_path: Path, how: str) -> None:
    """As the Procfile does, with paths that are relative to the folder where it is typed."""
    celery = os.path.relpath(Path(sysconfig.get_path("scripts"), "celery"))
    folder = os.path.relpath(CHECKOUT / "backend")
    words = {"word": ["--workdir", folder], "equals": [f"--workdir={folder}"], "variable": []}[how]
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    worker = WorkerProcess(
        database.url,
        state=tmp_path,
        log=tmp_path / "log",
        arguments=["--without-mingle", *(["--pool=prefork", "--concurrency=1"] if how == "equals" else [])],
        command=[celery, *words, "-A", APPLICATION],
        environment={"PROMETHEUS_MULTIPROC_DIR": str(metrics)}
        | ({"CELERY_WORKDIR": folder} if how == "variable" else {}),
    )

    def begun(times: int) -> bool:
        assert worker.process.poll() is None, worker.log_text()
        return worker.log_text().count(" ready.") == times and worker.is_ready()

    with worker:
        for times in (2, 3) if how == "word" else (2,):  # what was mended once must stay so
            os.kill(worker.pid, signal.SIGHUP)
            wait_until(lambda times=times: begun(times), DEADLINE_S, "the worker to begin anew")
        if how == "equals":  # prefork
            assert [folder.parent for folder in tmp_path.glob("**/skeldir-metrics-*")] == [metrics]
        app = create_app(Settings(database_url=database.url, _env_file=None))
        try:
            assert app.send_task("app.tasks.housekeeping.ping").get(timeout=DEADLINE_S)["status"] == "ok"
        finally:
            app.close()
            celery_app.set_current()
    assert worker.process.returncode == 0
    assert "Traceback" not in worker.log_text()
