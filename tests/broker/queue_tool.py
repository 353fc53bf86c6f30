"""The queue tool in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any

from tests.broker.processes import environment

#: ``tool(words, …)``: what a command prints as JSON.
Tool = Callable[..., Any]


def typed(url: str, *words: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """As somebody types it, with the database in the environment."""
    variables = {**environment(), "DATABASE_URL": url, "COLUMNS": "200"}
    variables.pop("CELERY_BROKER_URL", None)
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "celery_postgres", *words],
        env=variables,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
