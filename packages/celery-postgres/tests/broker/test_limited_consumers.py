"""Limits as consumers and workers keep them, and what is said of those that cannot."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_postgres.operations import Operations
from environment.testkit.keyed import fill
from environment.testkit.kombu_programs import environment
from environment.testkit.tables import scalar
from environment.waiting import wait_until


def consumers_of(url: str, connect: Callable[..., Any], count: int) -> list[Any]:
    return [connect(url).consume("q", prefetch=8) for _ in range(count)]


def test_consumers_share_the_limit_of_a_whole_queue(
    plain_database: Any, broker: Operations, connect: Callable[..., Any]
) -> None:
    url = plain_database.url
    fill(url, 60, 7)
    broker.set_limit("q", concurrency=3)
    inboxes = consumers_of(url, connect, 3)
    running = "SELECT count(*) FROM kombu_message WHERE NOT visible"

    def all_done() -> bool:
        assert scalar(url, running) <= 3
        for inbox in inboxes:
            inbox.drain(0.02)
            for message in inbox.messages:
                message.ack()
            inbox.messages.clear()
        return bool(scalar(url, "SELECT count(*) = 0 FROM kombu_message"))

    wait_until(all_done, 60, "all messages to be consumed")


def test_limits_change_while_consumers_run(
    plain_database: Any, broker: Operations, connect: Callable[..., Any]
) -> None:
    url = plain_database.url
    fill(url, 40, 2)
    broker.set_limit("q", key="0", concurrency=0)
    broker.set_limit("q", key="1", per_second=0.001, burst=2)
    (inbox,) = consumers_of(url, connect, 1)
    taken = inbox.take(2)
    for message in taken:
        message.ack()
    broker.set_limit("q", key="0", concurrency=2)
    for message in inbox.take(2):
        message.ack()
    broker.set_limit("q", key="1", per_second=1000)
    inbox.take_acked(36)


MODULE = """
from celery import Celery
import celery_postgres
celery_postgres.install()
app = Celery("mine", broker="{url}")
app.conf.update({conf})

@app.task
def early(): ...

@app.task(acks_late={late})
def late(): ...
"""


def worker_in(folder: Path) -> subprocess.Popen[str]:
    """A worker of the module `mine` there, which logs to its standard error."""
    words = ["-A", "mine", "worker", "-Q", "q", "-P", "solo", "-l", "INFO", "--without-mingle", "--without-gossip"]
    return subprocess.Popen(
        [sys.executable, "-m", "celery", *words],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize(
    ("conf", "late", "said", "ends"),
    [
        (
            {},
            False,
            "The queue q limits how many tasks run at once, and this worker acknowledges tasks before they",
            True,
        ),
        ({}, True, "The queue q limits how many tasks run at once, and does not count tasks", False),
        ({"task_acks_late": True}, True, "", False),
    ],
    ids=["all early", "some early", "all late"],
)
def test_a_worker_that_acknowledges_early_is_told_at_its_start(
    plain_database: Any,
    broker: Operations,
    tmp_path: Path,
    conf: dict[str, Any],
    late: bool,
    said: str,
    ends: bool,
) -> None:
    url = plain_database.url
    fill(url, 0)
    broker.set_limit("q", key="*", concurrency=5)
    (tmp_path / "mine.py").write_text(MODULE.format(url="sqla+" + url, conf=conf, late=late))
    with worker_in(tmp_path) as worker:
        lines: list[str] = []
        assert worker.stderr is not None
        for line in worker.stderr:
            lines.append(line)
            if " ready." in line:
                worker.terminate()
        worker.wait(30)
    output = "".join(lines)
    assert said in output
    assert (" ready." in output) is not ends
    assert ("limits how many" in output) is bool(said)
    assert "Traceback" not in output


def test_a_worker_that_acknowledges_early_takes_nothing_from_a_queue_that_is_limited_later(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any], tmp_path: Path
) -> None:
    url = plain_database.url
    fill(url, 0)
    (tmp_path / "mine.py").write_text(MODULE.format(url="sqla+" + url, conf={}, late=False))
    with worker_in(tmp_path) as worker:
        overdue = threading.Timer(60, worker.kill)
        overdue.start()
        steps: list[str] = []
        assert worker.stderr is not None
        for line in worker.stderr:
            if " ready." in line:
                broker.set_limit("q", key="*", concurrency=5)
            elif "it takes nothing more from it" in line:
                steps.append("limited")
                make_app(url).send_task("mine.early", queue="q", headers={"tenant_id": "acme"})
                broker.remove_limit("q", key="*")
            elif "no longer limits" in line:
                steps.append("free")
            elif "received" in line:
                steps.append("taken")
                worker.terminate()
        worker.wait(30)
        overdue.cancel()
    assert steps == ["limited", "free", "taken"]
