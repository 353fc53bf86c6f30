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


def unpacked(folder: Path) -> dict[str, str]:
    """The variables of a process that imports the old release, which is unpacked into the folder."""
    done = subprocess.run(
        ["git", "-C", str(CHECKOUT), "archive", COMMIT, "backend", "environment", "tests"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        unavailable(f"git has no commit {COMMIT} here")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return {"PYTHONPATH": os.pathsep.join([str(folder / "backend"), str(folder)]), "PYTHONSAFEPATH": "1"}


def create_schema(folder: Path, url: str) -> None:
    """What the old release's `create_schema` makes."""
    subprocess.run(
        [sys.executable, "-c", "import sys, celery_postgres; celery_postgres.create_schema(sys.argv[1])", url],
        env={**os.environ, **unpacked(folder)},
        check=True,
        timeout=60,
    )
