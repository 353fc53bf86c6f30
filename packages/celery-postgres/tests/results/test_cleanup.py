"""Which results expire, and when."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery, states

from celery_postgres.database.result_store import ResultStore
from environment.testkit.canvas import answer, count, stored
from environment.testkit.clock import CLOCK_AHEAD
from environment.testkit.probe import DEADLINE_S, Probe
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

TABLES = ("celery_taskmeta", "celery_tasksetmeta", "celery_chord", "celery_chord_part", "celery_waiter")


@pytest.fixture
def url(plain_database: Any) -> str:
    return str(plain_database.url)


@pytest.fixture
def app(make_app: Callable[..., Celery], url: str) -> Celery:
    return make_app(url, result_expires=timedelta(hours=1))


def fill(url: str, age: str, number: int, name: str) -> None:
    """Insert rows of this age into all tables."""
    old = f"now() AT TIME ZONE 'UTC' - interval '{age}'"
    run(
        url,
        "INSERT INTO celery_taskmeta (id, task_id, status, date_done)"  # noqa: S608
        f" SELECT nextval('task_id_sequence'), '{name}-' || n, 'SUCCESS', {old} FROM generate_series(1, {number}) AS n",
        "INSERT INTO celery_tasksetmeta (id, taskset_id, date_done)"  # noqa: S608
        f" SELECT nextval('taskset_id_sequence'), '{name}-' || n, {old} FROM generate_series(1, {number}) AS n",
        "INSERT INTO celery_chord (id, created_at, done)"  # noqa: S608
        f" SELECT '{name}-' || n, now() - interval '{age}', 1 FROM generate_series(1, {number}) AS n",
        "INSERT INTO celery_chord_part (chord_id, task_id, status)"  # noqa: S608
        f" SELECT '{name}-' || n, 'part', 'SUCCESS' FROM generate_series(1, {number}) AS n",
        "INSERT INTO celery_waiter (task_id, listener, slot, since)"  # noqa: S608
        f" SELECT '{name}-' || n, 1, n, now() - interval '{age}' FROM generate_series(1, {number}) AS n",
    )


def left(url: str) -> dict[str, int]:
    return {table: count(url, table) for table in TABLES}


def test_cleanup_deletes_old_rows_and_keeps_new_ones(app: Celery, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResultStore, "BATCH", 10)
    fill(url, "2 hours", 35, "old")
    fill(url, "10 minutes", 5, "new")
    app.backend.cleanup()
    assert left(url) == dict.fromkeys(TABLES, 5)
    assert stored(url, "new-1") == "SUCCESS"


#: A program whose clock runs ahead of the server's.
AHEAD = f"""
{CLOCK_AHEAD}
from celery import Celery
from celery_postgres.installation import install
install()
app = Celery("ahead", broker="sqla+" + sys.argv[1], backend="db+" + sys.argv[1], set_as_current=False)
app.conf.result_expires = datetime.timedelta(hours=1)
app.backend.cleanup()
"""


def test_a_clock_that_runs_ahead_deletes_no_new_results(url: str) -> None:
    fill(url, "2 hours", 3, "old")
    fill(url, "10 minutes", 5, "new")
    subprocess.run([sys.executable, "-c", AHEAD, url], check=True)
    assert left(url) == dict.fromkeys(TABLES, 5)


def test_concurrent_cleanups_share_the_work(app: Celery, make_app: Callable[..., Celery], url: str) -> None:
    other = make_app(url, result_expires=3600)
    fill(url, "2 hours", 3000, "old")
    threads = [threading.Thread(target=one.backend.cleanup) for one in (app, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left(url) == dict.fromkeys(TABLES, 0)


def test_cleanup_stops_when_its_time_is_over(app: Celery, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResultStore, "BATCH", 10)
    fill(url, "2 hours", 50, "old")
    assert app.backend.maintenance.clean(seconds=-1) is False
    assert count(url, "celery_taskmeta") == 40
    assert app.backend.maintenance.clean(seconds=60) is True
    assert count(url, "celery_taskmeta") == 0


@pytest.mark.parametrize("expires", [None, 0])
def test_results_without_an_expiry_are_kept(make_app: Callable[..., Celery], url: str, expires: Any) -> None:
    app = make_app(url, result_expires=expires)
    fill(url, "10 years", 3, "old")
    app.backend.cleanup()
    app.backend.maintain()
    assert left(url) == dict.fromkeys(TABLES, 3)


@pytest.mark.parametrize("state", [states.STARTED, states.RETRY, "PROGRESS"])
def test_the_row_of_a_lost_task_expires(app: Celery, url: str, state: str) -> None:
    app.backend.store_result("lost", ValueError("x") if state == states.RETRY else {}, state)
    assert app.AsyncResult("lost").date_done is None
    run(url, "UPDATE celery_taskmeta SET date_done = date_done - interval '2 hours'")
    app.backend.cleanup()
    assert stored(url, "lost") is None


def test_a_chord_whose_body_cannot_be_sent_expires(app: Celery, url: str) -> None:
    fill(url, "2 hours", 1, "due")
    run(url, "UPDATE celery_chord SET due_at = now() - interval '30 minutes'")
    app.backend.cleanup()
    assert count(url, "celery_chord") == 1
    run(url, "UPDATE celery_chord SET due_at = now() - interval '2 hours'")
    app.backend.cleanup()
    assert count(url, "celery_chord") == 0


def test_celerys_own_cleanup_task_deletes_old_results(pool: Probe) -> None:
    fill(pool.url, "2 days", 3, "old")
    fill(pool.url, "1 minute", 1, "new")
    answer(pool.app.send_task("celery.backend_cleanup"))
    wait_until(
        lambda: scalar(pool.url, "SELECT count(*) FROM celery_taskmeta WHERE task_id LIKE 'old-%'") == 0,
        DEADLINE_S,
        "the old results to go",
    )
    assert stored(pool.url, "new-1") == "SUCCESS"
    run(pool.url, "TRUNCATE celery_chord, celery_chord_part")


def test_a_worker_deletes_old_results_without_beat(app: Celery, url: str) -> None:
    fill(url, "2 hours", 3, "old")
    app.backend.maintenance._next_cleanup = 0.0
    app.backend.maintain()
    assert left(url) == dict.fromkeys(TABLES, 0)
