"""The wheel, in an environment of its own: installed, migrated, and a task run, as a new user would."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT
from environment.testkit.machine import unavailable

PACKAGE = CHECKOUT / "packages/celery-postgres"
PROGRAM = """
import sys, threading, pathlib
import celery_postgres
from celery import Celery
from celery.contrib.testing.worker import start_worker

assert "site-packages" in celery_postgres.__file__, celery_postgres.__file__
celery_postgres.install()
url = sys.argv[1]
app = Celery("mine", broker="sqla+" + url, backend="db+" + url)

@app.task(name="add")
def add(x, y):
    return x + y

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
    print(celery_postgres.__version__, add.delay(20, 22).get(timeout=30))
"""

pytestmark = pytest.mark.long


def call(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Without this checkout's PYTHONPATH."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in words],
        env=variables | {"DATABASE_URL": options.pop("url", "")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, PACKAGE)
    if done.returncode:
        unavailable(f"pip cannot build the wheel here, which needs hatchling: {done.stderr[-500:]}")
    (built,) = folder.glob("celery_postgres-*.whl")
    return built


def test_the_wheel_has_all_that_the_package_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = PACKAGE / "src"
    wanted = {
        str(path.relative_to(source))
        for pattern in ("*.py", "*.sql", "py.typed")
        for path in (source / "celery_postgres").rglob(pattern)
    }
    assert wanted <= names
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_a_new_user(wheel: Path, tmp_path: Path, fresh: Callable[..., Any]) -> None:
    made = call(sys.executable, "-m", "venv", tmp_path / "venv")
    assert made.returncode == 0, made.stderr
    python = tmp_path / "venv/bin/python"
    done = call(python, "-m", "pip", "install", "--no-input", wheel)
    if done.returncode:
        unavailable(f"pip cannot install Celery here: {done.stderr[-500:]}")
    empty = tmp_path / "empty"
    empty.mkdir()
    without = call(python, "-c", "import celery_postgres", cwd=empty)
    assert without.stderr.splitlines()[-1].startswith("ModuleNotFoundError: celery_postgres needs the driver psycopg2")
    assert call(python, "-m", "pip", "install", "--no-input", f"{wheel}[binary,tool,sqlalchemy]").returncode == 0
    with fresh() as database:
        migrated = call(python, "-m", "celery_postgres", "migrate", cwd=empty, url=database.url)
        assert migrated.returncode == 0, migrated.stderr
        assert call(python, "-m", "celery_postgres", "check", cwd=empty, url=database.url).returncode == 0
        (empty / "mine.py").write_text(PROGRAM)
        ran = call(python, "mine.py", database.url, cwd=empty)
        assert ran.stdout == "0.1.0 42\n", ran.stderr
        again = call(
            python,
            "-c",
            "import sys, celery_postgres, sqlalchemy as s; celery_postgres.create_schema(s.create_engine(sys.argv[1]))",
            database.url,
            cwd=empty,
        )
        assert again.returncode == 0, again.stderr
