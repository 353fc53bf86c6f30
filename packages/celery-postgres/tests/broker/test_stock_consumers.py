"""Workers that have forgotten install(): refused without a loss; and the move from stock to this package and back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_postgres.database.migrations import check, migrate
from environment.testkit import children
from environment.testkit.databases import rows, stock_create_all
from environment.testkit.kombu_programs import run_stock
from environment.testkit.queue_tool import typed
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until

DEADLINE_S = 60
CURE = "stock Kombu must not consume from this database, where it would lose tasks: call celery_postgres.install()"
APP = """
import os, time
if os.environ["KIND"] == "ours":
    import celery_postgres
    celery_postgres.install()
from celery import Celery

app = Celery("moving", broker="sqla+" + os.environ["BROKER"])
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=1)

@app.task(name="moving.note")
def note(tag):
    time.sleep(0.1)  # so that both kinds of worker get some
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{os.environ['KIND']} {tag}\\n")
"""


class Move:
    """One project on a database, with workers of both kinds."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._notes = folder / "notes"
        self._notes.touch()
        (folder / "moving_app.py").write_text(APP)
        self.workers: list[subprocess.Popen[Any]] = []

    def start(self, kind: str) -> tuple[subprocess.Popen[Any], Path]:
        """Start a worker, `stock` or `ours`, and wait until it is ready."""
        log = self._folder / f"{kind}-{len(self.workers)}.log"
        variables = {"KIND": kind, "BROKER": self.url, "NOTES": str(self._notes)}
        environment = children.environment(variables)
        environment["PYTHONPATH"] += f"{os.pathsep}{self._folder}"
        words = ["-m", "celery", "-A", "moving_app", "worker", "-P", "solo", "-l", "info", "-n", f"{log.stem}@here"]
        with log.open("w") as out:
            worker = subprocess.Popen([sys.executable, *words], env=environment, stdout=out, stderr=out)
        self.workers.append(worker)
        wait_until(lambda: " ready." in log.read_text() or worker.poll() is not None, DEADLINE_S, f"{log.name}")
        return worker, log

    def send(self, tag: str, count: int = 1) -> None:
        """Send tasks as a producer with stock Kombu does."""
        run_stock("send", self.url, "moving.note", str(count), tag, "celery", "0")

    def noted(self) -> list[list[str]]:
        """Kind of worker and tag of each run."""
        return [line.split() for line in self._notes.read_text().splitlines()]

    def wait_for(self, tag: str, count: int = 1) -> None:
        """Wait until that many runs of tasks with this tag have ended."""
        wait_until(
            lambda: len([one for _, one in self.noted() if one.startswith(f"{tag}-")]) >= count, DEADLINE_S, f"{tag}"
        )


@pytest.fixture
def project(fresh: Any, tmp_path: Path) -> Iterator[Move]:
    """A project on an empty database."""
    with fresh() as database:
        made = Move(database.url, tmp_path)
        yield made
        for worker in made.workers:
            worker.kill()
            worker.wait()


def ended(worker: subprocess.Popen[Any]) -> int:
    wait_until(lambda: worker.poll() is not None, DEADLINE_S, "the worker to end")
    return int(worker.returncode)


def test_a_stock_worker_ends_with_the_cure_and_takes_nothing(project: Move, private_cluster: Any) -> None:
    project.url = private_cluster.url()
    migrate(project.url)
    project.send("geheim", 3)
    before = rows(project.url, "SELECT id, visible, version, payload FROM kombu_message ORDER BY id")
    assert len(before) == 3

    worker, log = project.start("stock")

    assert ended(worker) == 1
    text = log.read_text()
    (critical,) = [line for line in text.splitlines() if "Unrecoverable error" in line]
    assert CURE in critical
    assert "migrate --allow-stock" in critical
    assert rows(project.url, "SELECT id, visible, version, payload FROM kombu_message ORDER BY id") == before
    assert project.noted() == []
    # Neither it nor PostgreSQL shows what the message holds.
    logged = private_cluster.log.read_text()
    assert CURE in logged
    for payload in [row[3] for row in before]:
        assert payload[:40] not in text
        assert payload[:40] not in logged

    project.start("ours")
    project.wait_for("geheim", 3)
    assert Counter(kind for kind, _ in project.noted()) == {"ours": 3}


def test_a_move_from_stock_and_back_while_tasks_flow(project: Move) -> None:
    """The steps of docs/backend/moving.md."""
    stock_create_all(project.url)
    old, _ = project.start("stock")
    project.send("before", 5)
    project.wait_for("before", 5)

    assert typed(project.url, "migrate", "--allow-stock").returncode == 0
    project.send("migrated", 5)
    project.wait_for("migrated", 5)
    ours, _ = project.start("ours")
    rounds = 0
    while {kind for kind, tag in project.noted() if tag.startswith("both-")} != {"ours", "stock"}:
        assert rounds < 5, "one of them takes nothing"
        project.send(f"both-{rounds}", 40)
        project.wait_for(f"both-{rounds}", 40)
        rounds += 1
    again = typed(project.url, "migrate")
    assert "stock Kombu's consumers are allowed" in again.stderr
    assert check(project.url).stock_allowed  # a migration by the way did not end the move

    old.send_signal(signal.SIGTERM)
    assert ended(old) == 0
    assert typed(project.url, "migrate", "--refuse-stock").returncode == 0
    assert "allowed" not in typed(project.url, "check").stdout
    ours.send_signal(signal.SIGTERM)
    ended(ours)
    project.send("refused", 5)
    forgotten, log = project.start("stock")
    assert ended(forgotten) == 1
    assert CURE in log.read_text()

    assert typed(project.url, "migrate", "--allow-stock").returncode == 0
    project.start("stock")
    project.wait_for("refused", 5)
    assert {kind for kind, tag in project.noted() if tag.startswith("refused-")} == {"stock"}
    counts = Counter(tag for _, tag in project.noted())
    assert set(counts.values()) == {1}
    assert len(counts) == 15 + 40 * rounds
    assert scalar(project.url, "SELECT count(*) FROM kombu_message WHERE visible") == 0


def test_a_stock_worker_that_runs_when_it_is_refused_gives_back_what_it_has(project: Move) -> None:
    migrate(project.url, allow_stock=True)
    worker, _ = project.start("stock")
    project.send("first")
    project.wait_for("first")
    migrate(project.url, allow_stock=False)
    project.send("second", 10)
    assert ended(worker) == 1
    migrate(project.url)
    project.start("ours")
    project.wait_for("second", 10)
    counts = Counter(tag for _, tag in project.noted())
    assert set(counts.values()) == {1}
    assert len(counts) == 11
    wait_until(lambda: rows_of(project.url) == 1, DEADLINE_S, "the acks")  # what stock has taken stays
