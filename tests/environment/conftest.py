"""Fixtures for the tests of the environment itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from environment.account import server_account
from environment.sources import python_path
from environment.temporary import temporary_root


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that the account of PostgreSQL can enter; pytest's tmp_path is private to its owner."""
    made = Path(tempfile.mkdtemp(prefix="skeldir-test-", dir=temporary_root(server_account())))
    if os.geteuid() == 0:
        made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def query() -> Callable[..., list[tuple[Any, ...]]]:
    """``query(url, statement, *parameters)`` in a connection of its own, committed; the rows, if there are any."""

    def run(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def python() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """``python(source)``: another Python process with our modules; killed at the end if it still lives."""
    children: list[subprocess.Popen[str]] = []

    def start(source: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", source],
            env={**os.environ, "PYTHONPATH": python_path({})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()
