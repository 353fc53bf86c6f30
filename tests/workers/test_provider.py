"""A worker whose LLM provider cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from environment.waiting import wait_until
from environment.worker import WorkerProcess

DEADLINE_S = 60


@pytest.mark.parametrize("provider", ["absent.module:Provider", "app.tasks.llm_provider:Absent"])
def test_a_provider_that_is_not_there_is_said_at_the_start(database: Any, tmp_path: Path, provider: str) -> None:
    worker = WorkerProcess(database.url, state=tmp_path, log=tmp_path / "log", environment={"LLM_PROVIDER": provider})
    try:
        worker.start()
        wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the worker to end")
        assert worker.process.returncode == 78
        assert "LLM_PROVIDER cannot be used: " in worker.log_text()
        assert "Traceback" not in worker.log_text()
    finally:
        worker.stop()
