"""The queue tool in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any

from environment.testkit.kombu_programs import environment

#: ``tool(words, …)``: what a command prints as JSON.
Tool = Callable[..., Any]


def start(url: str, *words: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start a command of the queue tool, with the database in the environment."""
    variables = {**environment(), "DATABASE_URL": url, "COLUMNS": "200"}
    variables.pop("CELERY_BROKER_URL", None)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "celery_postgres", *words],
        env=variables,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def typed(url: str, *words: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a command of the queue tool; return its output and exit status."""
    with start(url, *words, stdout=stdout) as process:
        try:
            out, errors = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out or "", errors)
