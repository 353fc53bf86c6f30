"""QUIT, or a second Ctrl-C: the worker leaves at once, and the task that it ran is run again by the next one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from app.celery_app import celery_app, create_app
from app.core.settings import Settings

DEADLINE_S = 60


@pytest.mark.parametrize("pool", ["solo", "prefork", "threads"])
def test_a_task_under_way_is_run_to_its_end(
    pool: str, database: Any, start_worker: Any, wait_until: Any, tmp_path: Path
) -> None:
    options = {"pool": pool, "args": ["-I", "probe_tasks"], "env": {"PYTHONPATH": str(Path(__file__).parent)}}
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    app = create_app(Settings(database_url=database.url, _env_file=None))
    try:
        worker = start_worker(database.url, **options)
        answer = app.send_task("probe.waits_for", args=[str(gate), str(runs)])
        wait_until(runs.exists, DEADLINE_S, "the task to begin")
        worker.process.send_signal(signal.SIGQUIT)
        if pool == "threads":
            gate.touch()  # Python cannot end a thread: the process waits for it
        wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the worker to end")
        gate.touch()
        start_worker(database.url, **options)
        assert answer.get(timeout=DEADLINE_S) == "done"
    finally:
        app.close()
        celery_app.set_current()
    if pool != "threads":
        assert runs.read_text().count("begun") == 2
