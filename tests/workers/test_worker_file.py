"""CELERY_WORKER_FILE, by which a probe knows that a worker takes tasks."""

from __future__ import annotations

from pathlib import Path

from environment.waiting import wait_until
from environment.worker import WorkerProcess


def test_the_file_of_a_killed_worker_goes_before_the_next_one_is_ready(tmp_path: Path) -> None:
    """A container that is started again keeps its files; this one then waits for a database that is down."""
    worker = WorkerProcess("postgresql://somebody@127.0.0.1:1/nothing", state=tmp_path, log=tmp_path / "log")
    try:
        worker.start()
        worker.file.write_text('{"pid": 1}')
        wait_until(lambda: not worker.file.exists(), 60, "the old file to go")
        assert " ready." not in worker.log_text()
    finally:
        worker.kill()
