"""``./dev up``: the whole Procfile, until told to end or until one of its processes ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT, python_path
from environment.up import procfile
from environment.waiting import wait_until
from environment.workerfile import read_worker_file, worker_is_ready
from tests.environment.test_cli import copy_checkout

pytestmark = pytest.mark.root

DEADLINE_S = 90
UP = (sys.executable, "-P", "-m", "environment.cli", "up")


@dataclass
class Up:
    """A running ``./dev up``."""

    process: subprocess.Popen[str]
    port: int
    state: Path

    def get(self, path: str, host: str = "localhost") -> tuple[int, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  an address of ours
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def is_well(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        try:
            return self.get("/health")[0] == 200 and worker_is_ready(self.state)
        except OSError:
            return False

    def children(self) -> dict[str, int]:
        """Which of the Procfile's processes run, by their program."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(") ")[2].split()[1])
                words = (folder / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            if parent == self.process.pid:
                found["web" if b"uvicorn" in words else "worker"] = int(folder.name)
        return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as anyone:
        return int(anyone.getsockname()[1])


@pytest.fixture
def up(database: Any, folder: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(checkout: Path = CHECKOUT, command: Sequence[str | Path] = UP, **environment: str) -> Up:
        port = free_port()
        process = subprocess.Popen(
            command,
            env={
                **os.environ,
                "PYTHONPATH": python_path({}, checkout),
                "DATABASE_URL": database.url,
                "SKELDIR_STATE_DIR": str(folder),
                "PORT": str(port),
                "CELERY_METRICS_PORT": "0",
                **environment,
            },
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(Up(process, port, folder))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
        one.process.communicate(timeout=DEADLINE_S)


def test_everything_runs_and_ends_when_it_is_told(up: Callable[..., Up]) -> None:
    running = up()
    wait_until(running.is_well, DEADLINE_S, "the web process and the worker")
    assert set(running.children()) == {"web", "worker"}
    running.process.send_signal(signal.SIGTERM)
    output, _ = running.process.communicate(timeout=DEADLINE_S)
    assert running.process.returncode == 0, output
    assert f"http://127.0.0.1:{running.port}" in output
    assert read_worker_file(running.state / "worker.json") is None
    with pytest.raises(OSError, match="refused"):
        running.get("/livez")


def test_replit_starts_the_same_and_its_hosts_are_answered(up: Callable[..., Up], folder: Path) -> None:
    """With the python of PATH, as replit.nix puts it there, and no variable but those that Replit sets."""
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    running = up(
        command=[CHECKOUT / "ops/replit/start"],
        PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
        WEB_HOST="127.0.0.1",
        REPLIT_DOMAINS="mine.example.app,www.example.org",
        REPLIT_DEPLOYMENT="1",
    )
    wait_until(running.is_well, DEADLINE_S, "the web process and the worker")
    hosts = {"mine.example.app": 200, "www.example.org": 200, "elsewhere.example.org": 421}
    assert {host: running.get("/health", host)[0] for host in hosts} == hosts


def test_replit_keeps_no_files_so_a_deployment_needs_a_database(up: Callable[..., Up]) -> None:
    refused = up(command=[CHECKOUT / "ops/replit/start"], DATABASE_URL="", REPLIT_DEPLOYMENT="1").process
    output, _ = refused.communicate(timeout=DEADLINE_S)
    expected = "start: a deployment keeps no files: add a PostgreSQL database to the app, or set DATABASE_URL\n"
    assert (refused.returncode, output) == (1, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_the_web_process_listens_where_the_dotenv_file_says(up: Callable[..., Up], folder: Path) -> None:
    checkout = copy_checkout(folder / "checkout")
    shutil.copy2(CHECKOUT / "Procfile", checkout)
    (checkout / ".env").write_text("WEB_HOST=127.0.0.2\n")
    running = up(checkout)

    def answers() -> bool:
        assert running.process.poll() is None, running.process.communicate()
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.2", running.port)) == 0

    wait_until(answers, DEADLINE_S, "the web process")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("which", ["web", "worker"])
def test_where_one_ends_the_other_is_ended_too(up: Callable[..., Up], which: str) -> None:
    running = up()
    wait_until(running.is_well, DEADLINE_S, "the web process and the worker")
    pids = running.children()
    os.kill(pids[which], signal.SIGKILL)
    output, _ = running.process.communicate(timeout=DEADLINE_S)
    assert running.process.returncode == 128 + signal.SIGKILL
    assert f"the {which} process ended by itself" in output
    assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]


def test_a_port_that_is_taken_is_said_in_a_line(up: Callable[..., Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = up(PORT=str(taken.getsockname()[1]))
        output, _ = running.process.communicate(timeout=DEADLINE_S)
    assert running.process.returncode == 1
    assert len(output.splitlines()) == 1
    assert "choose another" in output


def test_the_procfile_names_a_web_process_and_a_worker() -> None:
    commands = procfile()
    assert set(commands) == {"web", "worker"}
    assert " app.main:app " in commands["web"]
    assert "${WEB_HOST:-127.0.0.1}" in commands["web"], "on loopback, unless told otherwise"
