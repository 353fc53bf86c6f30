"""`examples/django`, as its README says: its commands, typed in a copy of its folder, with each driver of Django's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn

from environment.sources import CHECKOUT
from environment.testkit.distribution import declare
from tests.examples.shell import follow
from tests.runbook.pages import blocks

PAGE = "examples/django/README.md"
#: How libpq calls what a URL has.
VARIABLES = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}


def variables(url: str, folder: Path, driver: str) -> dict[str, str]:
    """libpq's variables for a database, and an installed package. Django prefers psycopg 3, if it can be imported."""
    path = [str(declare(folder)), str(CHECKOUT / "packages/celery-postgres/src")]
    if driver == "psycopg2":
        (folder / "psycopg.py").write_text("raise ImportError('this test is about psycopg2')\n")
    given = {VARIABLES[name]: value for name, value in parse_dsn(url).items() if name in VARIABLES}
    return {"PYTHONPATH": os.pathsep.join(path), **given}


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_readme_does_what_it_says(fresh: Any, tmp_path: Path, driver: str) -> None:
    folder = shutil.copytree(CHECKOUT / "examples/django", tmp_path / "project")
    installed = tmp_path / "installed"
    installed.mkdir()
    with fresh() as database:
        follow(PAGE, folder, variables(database.url, installed, driver))
    logs = {log.name: log.read_text() for log in folder.glob("*.log")}
    assert set(logs) == {"beat.log", "web.log", "worker.log"}
    assert not [name for name, text in logs.items() if "Traceback" in text], logs


def test_the_readme_leaves_out_only_the_installation() -> None:
    assert [block.not_run for block in blocks(PAGE) if block.not_run] == [
        "the tests have the packages, and a database of their own"
    ]
