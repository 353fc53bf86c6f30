"""The wheel, in an environment of its own: installed, migrated, and a task run, as a new user would."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.testkit.installing import PACKAGE, call, new_venv, pip_install

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


def test_the_wheel_has_all_that_the_package_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = PACKAGE / "src"
    wanted = {
        str(path.relative_to(source))
        for pattern in ("*.py", "*.sql", "*.html", "*.css", "*.js", "py.typed")
        for path in (source / "celery_postgres").rglob(pattern)
    }
    assert wanted <= names
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_a_new_user(wheel: Path, tmp_path: Path, fresh: Callable[..., Any]) -> None:
    python = new_venv(tmp_path / "venv")
    pip_install(python, str(wheel))
    empty = tmp_path / "empty"
    empty.mkdir()
    without = call(python, "-c", "import celery_postgres", cwd=empty)
    assert without.stderr.splitlines()[-1].startswith("ModuleNotFoundError: celery_postgres needs the driver psycopg2")
    run = call(python, "-m", "celery_postgres", "queues", cwd=empty)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("celery_postgres: celery_postgres needs the driver psycopg2: pip install")
    assert run.stderr.count("\n") == 1
    pip_install(python, f"{wheel}[binary,tool,sqlalchemy]")
    with fresh() as database:
        migrated = call(python, "-m", "celery_postgres", "migrate", cwd=empty, url=database.url)
        assert migrated.returncode == 0, migrated.stderr
        checked = call(python, "-m", "celery_postgres", "check", cwd=empty, url=database.url)
        assert (checked.returncode, checked.stderr) == (0, "")
        (empty / "mine.py").write_text(PROGRAM)
        ran = call(python, "mine.py", database.url, cwd=empty)
        assert ran.stdout == "0.1.0 42\n", ran.stderr
        again = call(
            python,
            "-c",
            "import sys, celery_postgres, sqlalchemy as s; celery_postgres.create_schema(s.create_engine(sys.argv[1]))",
            # From SQLAlchemy 2.1 on, a plain postgresql:// means psycopg 3.
            database.url.replace("postgresql://", "postgresql+psycopg2://", 1),
            cwd=empty,
        )
        assert again.returncode == 0, again.stderr
