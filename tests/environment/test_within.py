"""./dev run with a database and a worker of its own: up, the command, down, and whose exit status counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT, python_path
from environment.waiting import wait_until

pytestmark = pytest.mark.root

RUN = [sys.executable, "-m", "environment.cli", "run", "--temporary", "--worker"]
DEADLINE_S = 60


@pytest.fixture
def environ() -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "CELERY_"))}
    return mine | {"PYTHONPATH": python_path({})}


@pytest.fixture
def run(environ: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*RUN, *words], env=environ, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )

    return call


def test_the_command_finds_the_worker_and_the_worker_its_log(run: Any, tmp_path: Path) -> None:
    done = run("--log", str(tmp_path / "log"), "--", "python", "-m", "environment.cli", "ping")
    assert done.returncode == 0, done.stderr
    assert "'status': 'ok'" in done.stdout
    assert "app.tasks.housekeeping.ping" in (tmp_path / "log").read_text()
    assert "ready" not in done.stderr


def test_the_status_is_the_commands_and_then_the_log_is_shown(run: Any, tmp_path: Path) -> None:
    done = run("--log", str(tmp_path / "log"), "--", "sh", "-c", "exit 7")
    assert done.returncode == 7
    assert "dev: the worker's log ends with\n" in done.stderr
    assert "Warm shutdown" in done.stderr


# A killed process is not gone at once: its parent can only tell once all its threads have ended.
KILL_AND_SEE_IT_GONE = """
import json, os, select, signal
with open(os.environ["SKELDIR_STATE_DIR"] + "/worker.json") as file:
    pid = json.load(file)["pid"]
gone = os.pidfd_open(pid)
os.kill(pid, signal.SIGKILL)
select.select([gone], [], [])
"""


def test_a_worker_that_dies_fails_a_command_that_succeeded(run: Any, tmp_path: Path) -> None:
    done = run("--log", str(tmp_path / "log"), "--", sys.executable, "-c", KILL_AND_SEE_IT_GONE)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "dev: the worker ended with 137 before the command did",
    )


def test_term_ends_the_command_the_worker_and_the_database(environ: dict[str, str], tmp_path: Path) -> None:
    note = tmp_path / "note"
    script = f'cat "$SKELDIR_STATE_DIR/worker.json" > {note}.half; mv {note}.half {note}; exec cat'
    command = [*RUN, "--log", str(tmp_path / "log"), "--", "sh", "-c", script]
    child = subprocess.Popen(command, env=environ, cwd=CHECKOUT, stdin=subprocess.PIPE)
    try:
        wait_until(lambda: note.exists() or child.poll() is not None, DEADLINE_S, "the command to begin")
        worker = int(json.loads(note.read_text())["pid"])
        child.send_signal(signal.SIGTERM)
        assert child.wait(DEADLINE_S) == 128 + signal.SIGTERM
    finally:
        child.kill()
        child.communicate()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_no_command(environ: dict[str, str]) -> None:
    done = subprocess.run(RUN, cwd=CHECKOUT, capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, done.stderr) == (1, "dev: which command? ./dev run -- COMMAND ...\n")
