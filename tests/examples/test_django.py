"""`examples/django`, as its README says: its commands in one shell, in a copy of its folder, with each driver."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn

from environment.cluster import free_port
from environment.sources import CHECKOUT
from environment.testkit.distribution import declare
from tests.runbook.pages import blocks, missing

FOLDER = CHECKOUT / "examples/django"
PAGE = "examples/django/README.md"
#: How libpq calls what a URL has.
VARIABLES = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
_MARK = "=== the end of a block"
DEADLINE_S = 240


def variables(url: str, folder: Path, driver: str) -> dict[str, str]:
    """A person's environment after `pip install`, with this database."""
    (folder / "installed").mkdir()
    path = [str(declare(folder / "installed")), str(CHECKOUT / "packages/celery-postgres/src")]
    if driver == "psycopg2":
        (folder / "without").mkdir()
        (folder / "without/psycopg.py").write_text("raise ImportError('this test is about psycopg2')\n")
        path.insert(0, str(folder / "without"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "DJANGO_", "PYTHON"))}
    return {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]]),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        **{VARIABLES[name]: value for name, value in parse_dsn(url).items() if name in VARIABLES},
    }


def type_in(script: str, folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    """Exit status, output and errors of a script; what it leaves in the background ends with it."""
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = shell.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        out, errors = shell.communicate()
        errors += f"\nnot done after {DEADLINE_S} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    return shell.returncode, out, errors


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_readme_does_what_it_says(fresh: Any, tmp_path: Path, program: Any, driver: str) -> None:
    program("curl")
    folder = shutil.copytree(FOLDER, tmp_path / "project")
    typed = [block for block in blocks(PAGE) if block.not_run is None]
    script = "".join(f"{block.text}\necho '{_MARK}'\n" for block in typed).replace("8000", str(free_port()))
    with fresh() as database:
        status, out, errors = type_in(script, folder, variables(database.url, tmp_path, driver))
    logs = "".join(f"\n--- {log.name}\n{log.read_text()[-4000:]}" for log in sorted(folder.glob("*.log")))
    assert status == 0, f"{out}\n--- errors\n{errors}{logs}"
    for block, printed in zip(typed, re.split(rf"^{_MARK}\n", out, flags=re.MULTILINE), strict=False):
        line = missing(block.printed, printed)
        assert line is None, f"{block.name}: {line!r} is not in\n{printed}\n--- errors\n{errors}{logs}"
    assert "Traceback" not in logs, logs


def test_the_readme_leaves_out_only_the_installation() -> None:
    assert [block.not_run for block in blocks(PAGE) if block.not_run] == [
        "the tests have the packages, and a database of their own"
    ]
