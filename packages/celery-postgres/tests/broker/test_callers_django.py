"""`publishing_on` with Django's own connection, by both drivers, and transactions that an ambient provider finds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from environment.testkit.tables import run, scalar


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_what_is_published_in_atomic_is_part_of_it(driver: str, module_database: Any, queue: str) -> None:
    run(
        module_database.url,
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'refused by a test'; END $$",
        "CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON kombu_message FOR EACH ROW"
        " WHEN (NEW.task_id LIKE '%-refused') EXECUTE FUNCTION refuse()",
    )
    program = [sys.executable, "-P", "-m", "environment.testkit.django_caller", module_database.url, driver, queue]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen.pop("statements") > 10
    assert seen.pop("sqlite").startswith(
        "TypeError: publishing_on takes a connection to the broker's PostgreSQL, and Django's 'other' is sqlite"
    )
    assert seen.pop("rolled_back") == "Undone: "
    assert seen.pop("after an error") == (
        "NotPublishedError: not published in the caller's transaction, which can only be rolled back now: a statement "
        "before it failed in this atomic block"
    )
    assert seen == {
        "driver": driver,
        "committed": "",
        "nested": "",
        "refused": "",
        "refused_and_ignored": "",
        "autocommit": "",
        "ambient": "",
        "asked": 1,
        "logged": 0,
    }
    ids = "SELECT array_agg(substr(task_id, :from) ORDER BY id) FROM kombu_message WHERE task_id LIKE :ids"
    assert scalar(module_database.url, ids, **{"from": len(queue) + 2, "ids": f"{queue}-%"}) == [
        *("committed", "outer", "inner", "afterwards", "autocommit", "ambient-none", "ambient"),
        *("ambient-bulk-0", "ambient-bulk-1", "ambient-bulk-2", "ambient-inner", "at-once"),
    ]
