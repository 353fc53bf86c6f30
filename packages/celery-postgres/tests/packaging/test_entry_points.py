"""What Celery finds by itself once the wheel is installed, in a project that does not call `install()`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import celery_postgres
from environment.testkit import children
from environment.testkit.installing import call, new_venv, pip_install
from environment.testkit.tables import scalar
from environment.waiting import wait_until

pytestmark = pytest.mark.long

DEADLINE_S = 60
PROGRAM = """
import os
from celery import Celery

URL = os.environ["DATABASE_URL"]
app = Celery("mine", broker=URL, backend=URL)
app.conf.broker_transport = "celery_postgres:Transport"
app.conf.beat_schedule = {"often": {"task": "mine.add", "schedule": 0.5, "args": (1, 2)}}

@app.task
def add(x, y):
    return x + y

if __name__ == "__main__":
    print(add.delay(20, 22).get(timeout=30), type(app.backend).__module__)
"""


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of one environment for all of these tests, with the wheel and Flower."""
    python = new_venv(tmp_path_factory.mktemp("entry-points") / "venv")
    pip_install(python, f"{wheel}[binary,tool]", "flower>=2.2,<3")
    return python.parent


@pytest.fixture
def project(tmp_path: Path, fresh: Callable[..., Any]) -> Iterator[tuple[Path, str]]:
    """A folder with the program, and the URL of a database with the package's tables."""
    (tmp_path / "mine.py").write_text(PROGRAM)
    with fresh() as database:
        celery_postgres.create_schema(database.url)
        yield tmp_path, database.url


@contextmanager
def background(*words: str | Path, url: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A program without this checkout's PYTHONPATH, until the block ends."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SKELDIR_"))}
    log = cwd / f"{Path(words[0]).name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, words)),
            env=variables | {"DATABASE_URL": url, "CELERY_BROKER_URL": url},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=children.dies_with_us(),
        )
    try:
        yield process
    finally:
        children.end(process, 15)


def test_a_project_by_settings_alone(programs: Path, project: tuple[Path, str]) -> None:
    """A worker whose pool forks, a result, the queue tool, and a beat by its short name."""
    folder, url = project
    celery = programs / "celery"
    with background(celery, "-A", "mine", "worker", "-c", "1", url=url, cwd=folder):
        done = call(programs / "python", "mine.py", url=url, cwd=folder)
        assert done.stdout == "42 celery_postgres.results.backend\n", done.stderr
        listed = call(celery, "-A", "mine", "queues", "--json", url=url, cwd=folder)
        assert "celery" in [one["queue"] for one in json.loads(listed.stdout)], listed.stderr
        assert call(celery, "-A", "mine", "queues", "pause", "none", url=url, cwd=folder).returncode == 1
        assert call(celery, "-A", "mine", "queues", "--help", url=url, cwd=folder).stdout.startswith(
            "usage: celery -A APP queues [-h] [--json] COMMAND ..."
        )
    with background(celery, "-A", "mine", "beat", "-S", "postgres", url=url, cwd=folder):
        runs = "SELECT coalesce(sum(runs), 0) FROM celery_beat_entry"
        wait_until(lambda: scalar(url, runs) >= 2, DEADLINE_S, "two runs of the entry")


def test_an_app_with_another_broker_is_one_line(programs: Path, tmp_path: Path) -> None:
    done = call(programs / "celery", "-b", "redis://:hunter2@h/0", "queues", url="", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "is not a PostgreSQL URL" in line
    assert "hunter2" not in line


def test_flower_by_the_launcher(programs: Path, project: tuple[Path, str]) -> None:
    """Flower knows nothing but the URL."""
    folder, url = project
    words = ("-m", "celery_postgres", "run", "--", "flower", "--unix-socket=flower.socket")
    with background(programs / "python", *words, url=url, cwd=folder) as flower:
        listening = "SELECT count(*) FROM kombu_queue WHERE consumed AND name LIKE 'celeryev.%'"
        wait_until(lambda: flower.poll() is not None or scalar(url, listening), DEADLINE_S, "Flower to listen")
        assert flower.poll() is None, (folder / "python.log").read_text()
        flower.send_signal(signal.SIGTERM)
        assert flower.wait(DEADLINE_S) == 0
    assert scalar(url, "SELECT count(*) FROM kombu_queue WHERE name LIKE 'celeryev.%'") == 0
