"""Worker up, run this, worker down: with a stand-in for Celery, so that every ending can be had on demand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from environment.waiting import wait_until
from environment.worker import WorkerError, WorkerProcess
from environment.workerfile import read_worker_file, supervisor, worker_is_ready

Python = Callable[[str], "subprocess.Popen[str]"]
STUB = Path(__file__).with_name("celery_stub.py")
URL = "postgresql://app_user@/nowhere"


def worker(folder: Path, mode: str, **options: Any) -> WorkerProcess:
    return WorkerProcess(URL, state=folder, log=folder / "log", command=[sys.executable, str(STUB), mode], **options)


@pytest.fixture
def unready(tmp_path: Path) -> Iterator[WorkerProcess]:
    made = worker(tmp_path, "unready")
    made.start()
    yield made
    made.stop()


def test_inside_it_is_ready_and_afterwards_it_has_drained(tmp_path: Path) -> None:
    with worker(tmp_path, "good", arguments=["-Q", "a,b"], environment={"X": "y"}) as running:
        assert worker_is_ready(tmp_path)
        assert running.info.get("/health") == (200, "/health")
        assert running.metrics_url == f"http://127.0.0.1:{running.info.metrics_port}"
        assert os.getsid(running.pid) == running.pid
    assert running.process.returncode == 0
    assert read_worker_file(running.file) is None
    assert running.log_text().splitlines() == [
        f"DATABASE_URL is {URL} and the words are worker -Q a,b -P solo -c 1 --loglevel=INFO",
        "got SIGTERM",
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "-P solo -c 1 --loglevel=INFO"),
        (("-P", "prefork", "-c4"), "-P prefork -c4 --loglevel=INFO"),
        (("--pool=threads", "--concurrency", "2"), "--pool=threads --concurrency 2 --loglevel=INFO"),
        (("--autoscale=4,1", "-l", "DEBUG"), "--autoscale=4,1 -l DEBUG -P solo"),
        (("--prefetch-multiplier", "1"), "--prefetch-multiplier 1 -P solo -c 1 --loglevel=INFO"),
    ],
)
def test_the_usual_options_are_added_unless_given(tmp_path: Path, given: tuple[str, ...], words: str) -> None:
    command = worker(tmp_path, "good", arguments=given).command
    assert " ".join(command[command.index("worker") + 1 :]) == words


def test_one_that_ends_first_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"ended with 3 before it was ready\n(?s:.)*run \./dev migrate"):
        worker(tmp_path, "broken").__enter__()


def test_one_that_is_not_ready_in_time_is_an_error(unready: WorkerProcess) -> None:
    wait_until(unready.file.exists, 60, "the worker file")
    with pytest.raises(WorkerError, match=r"waited 0\.1 s for the worker to be ready\n(?s:.)*DATABASE_URL is"):
        unready.wait_ready(0.1)


def test_one_that_does_not_drain_is_killed_and_that_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stubborn = worker(tmp_path, "stubborn")
    stubborn.start()
    stubborn.wait_ready()
    stubborn.process.terminate()
    wait_until(lambda: "got SIGTERM" in stubborn.log_text(), 60, "it to hear of it")
    assert stubborn.stop(deadline_s=0.2) == -signal.SIGKILL
    assert "did not drain in 0.2 s and was killed" in capfd.readouterr().err


def test_stop_is_harmless_before_the_start_and_after_the_end(tmp_path: Path) -> None:
    running = worker(tmp_path, "good")
    assert running.stop() == 0
    with running:
        running.kill()
    assert running.stop() == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_it_drains_when_its_supervisor_is_killed(tmp_path: Path, python: Python) -> None:
    owner = python(
        f"""
import sys
from pathlib import Path
from environment.worker import WorkerProcess
folder = Path({str(tmp_path)!r})
command = [sys.executable, {str(STUB)!r}, "good"]
with WorkerProcess({URL!r}, state=folder, log=folder / "log", command=command) as worker:
    print(worker.pid, flush=True)
    input()
"""
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()

    def gone() -> bool:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            return False
        return True

    wait_until(gone, 60, "the worker to be gone")
    assert (tmp_path / "log").read_text().endswith("got SIGTERM\n")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"pid": "x"}', json.dumps({"pid": 2**22 + 1, "metrics_host": "h", "metrics_port": 1})],
)
def test_a_worker_file_that_names_no_live_worker_is_no_worker(tmp_path: Path, content: str) -> None:
    file = tmp_path / "worker.json"
    assert read_worker_file(file) is None
    file.write_text(content)
    assert read_worker_file(file) is None


def test_a_worker_file_whose_number_now_belongs_to_another_program_is_no_worker(tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as bystander:
        content = {"pid": bystander.pid, "metrics_host": "127.0.0.1", "metrics_port": 1}
        (tmp_path / "worker.json").write_text(json.dumps(content))
        assert read_worker_file(tmp_path / "worker.json") is None
        (tmp_path / "worker.lock").write_text(str(bystander.pid))
        assert supervisor(tmp_path) is None
        bystander.communicate()
