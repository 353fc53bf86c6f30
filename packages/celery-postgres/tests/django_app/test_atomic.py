"""Within `transaction.atomic()` a task is published as part of the transaction."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from environment.testkit.databases import rows

#: `project/things/tests.py`, which Django's test runner runs in a test database.
COUNT = 28


@pytest.mark.parametrize(("driver", "processes"), [("psycopg", "1"), ("psycopg2", "2")])
def test_atomic(make_project: Callable[..., Any], empty_database: Any, driver: str, processes: str) -> None:
    """With two processes Django copies the test database, to which nobody may be connected then."""
    project = make_project(driver, default=empty_database.url)
    # A second way to the same database; in tests it is a connection of its own.
    project.databases["again"] = {**project.databases["default"]}
    project.manage("migrate")
    done = project.call("manage.py", "test", "--parallel", processes, "things")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"Ran (\d+) tests", done.stderr)
    assert ran is not None
    assert int(ran[1]) == COUNT
    assert rows(empty_database.url, "SELECT count(*) FROM kombu_message") == [(0,)]


def test_the_driver_is_the_one_that_the_test_is_about(make_project: Callable[..., Any], empty_database: Any) -> None:
    program = "from django.db.backends.postgresql.psycopg_any import is_psycopg3; print(is_psycopg3)"
    assert make_project("psycopg", default=empty_database.url).run(program) == "True"
    assert make_project("psycopg2", default=empty_database.url).run(program) == "False"
