"""Metrics over the processes of a pool: children that are replaced, killed, or too slow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

#: One worker for the module, hence one process of pytest-xdist.
pytestmark = pytest.mark.xdist_group("observability_prefork")
DEADLINE_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def worker(module_database: Any, start_module_worker: Any, worker_options: Any, observe: Any, folder: Path) -> Any:
    """Each child runs one task, the hardest case for files per process."""
    options = worker_options("--max-tasks-per-child=1", PROMETHEUS_MULTIPROC_DIR=str(folder), HEALTH_INTERVAL="0.2")
    return observe(start_module_worker(module_database.url, pool="prefork", concurrency=4, **options))


@pytest.fixture(scope="module")
def app(module_database: Any, client_of: Any) -> Iterator[Celery]:
    with client_of(module_database.url) as app:
        yield app


def test_children_may_count_for_themselves(worker: Any, app: Celery, folder: Path, wait_until: Any) -> None:
    numbers = list(range(8))
    sent = [app.send_task("observed.counts", args=[number]) for number in numbers]
    pids = {result.get(timeout=DEADLINE_S) for result in sent}
    assert len(pids) == len(numbers)
    assert worker.total("observed_calls_total", parity="even") == 4
    assert worker.total("observed_calls_total", parity="odd") == 4
    assert worker.total("observed_sizes_sum") == sum(numbers)
    assert worker.total("observed_sizes_bucket", le="1.0") == 2
    assert worker.total("observed_sizes_bucket", le="+Inf") == len(numbers)
    (made,) = folder.iterdir()

    def owners() -> set[str]:
        return {file.stem.rpartition("_")[2] for file in made.glob("*.db")}

    # Without a scrape too, the files of the dead go into the archives: what stays is theirs and the worker's own.
    wait_until(
        lambda: owners().isdisjoint(map(str, pids)) and {"archive", str(worker.worker.pid)} <= owners(),
        DEADLINE_S,
        "the files of the dead to be merged",
    )
    assert worker.total("observed_calls_total") == len(numbers)
    assert worker.total("observed_sizes_bucket", le="10.0") == len(numbers)
    assert worker.total("observed_busy") == 0  # a live gauge: nobody is there any more


def test_counts_equal_what_was_sent_although_children_are_replaced(worker: Any, app: Celery, wait_until: Any) -> None:
    sent = [app.send_task("observed.returns", args=[number]) for number in range(8)]
    for result in sent:
        result.get(timeout=DEADLINE_S)
    wait_until(lambda: worker.total(task="observed.returns") == len(sent), DEADLINE_S, "all counts")
    assert worker.total(task="observed.returns", state="success") == len(sent)
    assert worker.total("celery_task_duration_seconds_count", task="observed.returns") == len(sent)


def test_a_killed_childs_task_comes_again_and_each_delivery_is_counted(
    worker: Any, app: Celery, tmp_path: Path, wait_until: Any
) -> None:
    result = app.send_task("observed.dies_once", args=[str(tmp_path / "died")])
    assert result.get(timeout=DEADLINE_S) != worker.worker.pid
    wait_until(lambda: worker.total(task="observed.dies_once") == 2, DEADLINE_S, "both deliveries")
    assert worker.total(task="observed.dies_once", state="rejected") == 1
    assert worker.total(task="observed.dies_once", state="success") == 1
    (line,) = [line for line in worker.lines() if line["message"].startswith("Task handler raised error")]
    assert line["task_id"] == result.id
    assert line["task_name"] == "observed.dies_once"
    assert line["error.type"] == "billiard.exceptions.WorkerLostError"
    assert line["error.message"].startswith("Worker exited prematurely: signal 9 (SIGKILL)")


def test_a_hard_time_limit_is_a_failure_told_once(worker: Any, app: Celery, wait_until: Any) -> None:
    result = app.send_task("observed.takes_too_long", args=["x"])
    result.get(timeout=DEADLINE_S, propagate=False)
    assert result.state == "FAILURE"
    wait_until(
        lambda: any("the hard time limit of 0.5 s is over" in line["message"] for line in worker.lines()),
        DEADLINE_S,
        "the pool to have settled it",
    )
    assert (
        worker.samples("celery_tasks_total")[
            (("queue", "celery"), ("state", "failure"), ("task", "observed.takes_too_long"))
        ]
        == worker.total(task="observed.takes_too_long")
        == 1
    )
    lines = [line for line in worker.lines() if "ime limit" in line["message"]]
    assert {line["task_id"] for line in lines} == {result.id}


def test_children_leave_the_port_to_the_worker(worker: Any, wait_until: Any) -> None:
    """Were it theirs too, a killed worker's port would stay taken, and its clients hang."""
    pid = worker.worker.pid
    listening = sockets_of(pid) & listeners(worker._info.metrics_port)
    assert len(listening) == 1

    # Each runs one task and is replaced: some are dead and not yet waited for, some forked and not yet themselves.
    def settled() -> bool:
        held = [sockets_of(child) for child in children(pid)]
        return any(held) and not any(sockets & listening for sockets in held)

    wait_until(settled, DEADLINE_S, "all children to have closed the port")


def test_a_folder_that_somebody_removes_comes_again(worker: Any, app: Celery, folder: Path, wait_until: Any) -> None:
    """As a cleaner of temporary files does. All counts had vanished for good, without a word."""
    before = worker.total(task="observed.returns")
    (made,) = folder.iterdir()
    shutil.rmtree(made)
    wait_until(lambda: list(made.glob(f"*_{worker.worker.pid}.db")), DEADLINE_S, "the worker to see it")
    app.send_task("observed.returns", args=[1]).get(timeout=DEADLINE_S)
    wait_until(lambda: worker.total(task="observed.returns") == 1 < before, DEADLINE_S, "the task to be counted")
    assert worker.samples("celery_expired_leases_total") == {(): 0.0}
    (line,) = [line for line in worker.lines() if line["message"].startswith(f"files of metrics below {made}")]
    assert line["level"] == "ERROR"
    app.send_task("observed.counts", args=[1]).get(timeout=DEADLINE_S)
    assert worker.total("observed_calls_total", parity="odd") == 1


def test_the_folder_goes_with_the_worker(worker: Any, folder: Path) -> None:
    assert len(list(folder.iterdir())) == 1
    assert worker.worker.stop() == 0
    assert list(folder.iterdir()) == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sockets_of(pid: int) -> set[str]:
    """None of a process that is dead: what is left of it root alone may look at."""
    found = set()
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def listeners(port: int) -> set[str]:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
