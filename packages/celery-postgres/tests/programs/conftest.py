"""Programs of other people's, and Celery's own, which find the package by entry points, by `broker_transport` or by
the launcher."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from environment.testkit import children
from environment.testkit.distribution import declare

#: ``program(words, …)``: a process of this Python, ended with the test.
StartProgram = Callable[..., subprocess.Popen[str]]
#: ``celery(words, …)``: a `celery …` that has ended.
RunCelery = Callable[..., subprocess.CompletedProcess[str]]

APPLICATION = """
import os
from celery import Celery

app = Celery("mine")
app.conf.update(eval(os.environ.get("MINE_CONF", "{}")))

@app.task
def add(x, y):
    return x + y

@app.task
def fail():
    raise ValueError("no")
"""


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which the package is installed as far as entry points go: a checkout has none."""
    return declare(tmp_path_factory.mktemp("distribution"))


@pytest.fixture
def mine(tmp_path: Path, distribution: Path) -> Callable[..., dict[str, str]]:
    """``mine(setting=…)``: the environment in which `-A mine` is a program with these settings, which does not call
    `install()`."""
    (tmp_path / "mine.py").write_text(APPLICATION)

    def variables(**settings: Any) -> dict[str, str]:
        path = os.pathsep.join([str(tmp_path), str(distribution), children.environment({})["PYTHONPATH"]])
        made = {**os.environ, "PYTHONPATH": path, "MINE_CONF": repr(settings), "PYTHONUNBUFFERED": "1"}
        for name in ("CELERY_BROKER_URL", "DATABASE_URL"):
            made.pop(name, None)
        return made

    return variables


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartProgram]:
    """``start(words, environment)``: `python words …`; its output is in ``process.log``."""
    started: list[subprocess.Popen[str]] = []

    def begin(words: list[str], variables: Mapping[str, str]) -> subprocess.Popen[str]:
        log = tmp_path / f"log-{secrets.token_hex(4)}"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", *words],
                env=dict(variables),
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=children.dies_with_us(),
            )
        process.log = log  # type: ignore[attr-defined]
        started.append(process)
        return process

    yield begin
    for process in started:
        children.end(process, 15)


@pytest.fixture
def ended(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``ended(words, environment)``: `python words …` until its end."""

    def call(words: list[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", *words],
            env=dict(variables),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return call
