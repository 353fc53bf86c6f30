"""The package as it was before its migrations had numbers, for tests of both releases on one database."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from environment.sources import CHECKOUT
from environment.testkit.machine import unavailable

#: The last commit before the package had a folder of its own.
COMMIT = "4062217"


def unpack(folder: Path) -> Path:
    """Put its sources into a folder."""
    words = ["git", "-C", str(CHECKOUT), "archive", COMMIT, "backend", "environment", "tests"]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        unavailable(f"git has no commit {COMMIT} here")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def python(folder: Path) -> tuple[str, ...]:
    """The words that start a Python which imports the old release, whatever PYTHONPATH the process is given."""
    return ("env", f"PYTHONPATH={folder / 'backend'}{os.pathsep}{folder}", sys.executable, "-P")


def worker(folder: Path) -> tuple[str, ...]:
    """The words that start a worker of the old release's probe program."""
    return (*python(folder), "-m", "celery", "-A", "tests.broker.probe_app")


def create_schema(folder: Path, url: str) -> None:
    """What the old release's `create_schema` makes."""
    program = "import sys, celery_postgres; celery_postgres.create_schema(sys.argv[1])"
    subprocess.run([*python(folder), "-c", program, url], check=True, timeout=60)
