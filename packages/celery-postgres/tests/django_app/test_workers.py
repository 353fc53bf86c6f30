"""Tasks that publish within `transaction.atomic()`, in a worker of each pool."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from environment.testkit.databases import rows
from environment.waiting import wait_until

SEND = """
from things.tasks import hand_over, make_and_follow, try_again
print(make_and_follow.delay("kept", False).id)
print(make_and_follow.delay("undone", True).id)
print(try_again.delay("again").id)
print(hand_over.delay("handed over").id)
"""
MADE = ["again, try 1", "handed over, part 0", "handed over, part 1", "kept", "kept, followed"]
_SUCCEEDED = "SELECT task_id FROM celery_taskmeta WHERE status = 'SUCCESS'"


@contextmanager
def worker(project: Any, folder: Path, *words: str) -> Iterator[None]:
    with (folder / "worker.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "shop", "worker", *words],
            cwd=project.folder,
            env=project.environment | {"PYTHONWARNINGS": ""},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    except BaseException:
        print((folder / "worker.log").read_text())  # noqa: T201  # pytest shows it with the failure
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


@pytest.mark.parametrize(("pool", "driver"), [("solo", "psycopg"), ("threads", "psycopg2"), ("prefork", "psycopg")])
def test_tasks_publish_within_atomic(
    make_project: Callable[..., Any], empty_database: Any, tmp_path: Path, pool: str, driver: str
) -> None:
    """A commit publishes, a rollback does not, and `retry` and `replace` go on although their exception rolls back."""

    def made() -> list[str]:
        return [name for (name,) in rows(empty_database.url, "SELECT name FROM things_thing ORDER BY name")]

    def succeeded() -> set[str]:
        return {task_id for (task_id,) in rows(empty_database.url, _SUCCEEDED)}

    project = make_project(driver, default=empty_database.url)
    project.manage("migrate")
    sent = set(project.run(SEND).split())
    with worker(project, tmp_path, "--pool", pool, "--concurrency", "2"):
        wait_until(lambda: len(made()) >= len(MADE) and sent <= succeeded(), 60, "the tasks")
    assert made() == MADE
    assert rows(empty_database.url, "SELECT count(*) FROM kombu_message") == [(0,)]
