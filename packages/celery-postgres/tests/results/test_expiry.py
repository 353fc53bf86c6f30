"""`result_failure_expires`, `result_chord_expires` and `AsyncResult.exists()` of Celery 5.7, with every Celery."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import celery
import pytest
from celery import Celery, chord, group, states
from celery.exceptions import ImproperlyConfigured, SecurityError

from celery_postgres.database.result_store import ResultStore
from environment.testkit.canvas import answer, count, stored
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, Probe, unique
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

HOUR, DAY = 3600, 86_400


@pytest.fixture
def url(plain_database: Any) -> str:
    return str(plain_database.url)


def fill(url: str, **ages: str) -> None:
    """30 results of each age, every third a failure: `name-FAILURE-3`, `name-SUCCESS-1`, `name-STARTED-2`, …"""
    for name, age in ages.items():
        state = "(ARRAY['FAILURE', 'SUCCESS', 'STARTED'])[n % 3 + 1]"
        run(
            url,
            "INSERT INTO celery_taskmeta (id, task_id, status, date_done)"  # noqa: S608  # our own words
            f" SELECT nextval('task_id_sequence'), '{name}-' || {state} || '-' || n, {state},"
            f" now() AT TIME ZONE 'UTC' - interval '{age}' FROM generate_series(1, 30) AS n",
        )


def left(url: str) -> dict[str, int]:
    """How many results are left, by age and whether they are failures."""
    found = "SELECT split_part(task_id, '-', 1) || CASE status WHEN 'FAILURE' THEN ' failed' ELSE '' END, count(*)"
    return dict(rows(url, f"{found} FROM celery_taskmeta GROUP BY 1"))


@pytest.mark.parametrize("batch", [7, 1000])
@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        (
            {"result_expires": HOUR, "result_failure_expires": DAY},
            {"new": 20, "new failed": 10, "hours failed": 10},
        ),
        (
            {"result_expires": DAY, "result_failure_expires": timedelta(hours=1)},
            {"new": 20, "new failed": 10, "hours": 20},
        ),
        (
            {"result_expires": HOUR, "result_failure_expires": 0},
            {"new": 20, "new failed": 10, "hours failed": 10, "days failed": 10},
        ),
        (
            {"result_expires": None, "result_failure_expires": HOUR},
            {"new": 20, "new failed": 10, "hours": 20, "days": 20},
        ),
        ({"result_expires": HOUR, "result_failure_expires": None}, {"new": 20, "new failed": 10}),
    ],
)
def test_failures_are_kept_for_a_time_of_their_own(
    make_app: Callable[..., Celery],
    url: str,
    conf: dict[str, Any],
    expected: dict[str, int],
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ResultStore, "BATCH", batch)
    app = make_app(url, **conf)
    fill(url, new="1 minute", hours="3 hours", days="3 days")
    app.backend.cleanup()
    assert left(url) == expected
    fill(url, late="3 hours")
    app.backend.cleanup()
    kept = {name.replace("hours", "late"): number for name, number in expected.items() if name.startswith("hours")}
    assert left(url) == expected | kept


def test_a_cleanup_that_is_cut_short_goes_on_where_it_was(
    make_app: Callable[..., Celery], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResultStore, "BATCH", 7)
    app = make_app(url, result_expires=HOUR, result_failure_expires=DAY)
    fill(url, hours="3 hours")
    runs = 0
    while not app.backend.maintenance.clean(seconds=-1):
        runs += 1
        assert runs < 100
    assert left(url) == {"hours failed": 10}
    assert runs >= 30 // 7


def test_a_result_that_is_stored_late_is_found_once_a_day(
    make_app: Callable[..., Celery], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(url, result_expires=HOUR, result_failure_expires=DAY)
    fill(url, hours="3 hours")
    app.backend.cleanup()
    fill(url, older="4 hours")
    app.backend.cleanup()
    assert left(url) == {"hours failed": 10, "older": 20, "older failed": 10}
    app.backend.maintenance._start_over = 0.0
    app.backend.cleanup()
    assert left(url) == {"hours failed": 10, "older failed": 10}


def test_a_worker_deletes_failures_although_results_never_expire(make_app: Callable[..., Celery], url: str) -> None:
    app = make_app(url, result_expires=None, result_failure_expires=HOUR)
    fill(url, hours="3 hours")
    app.backend.maintenance._next_cleanup = 0.0
    app.backend.maintain()
    assert left(url) == {"hours": 20}


@pytest.mark.parametrize("name", ["result_failure_expires", "result_chord_expires"])
@pytest.mark.parametrize("value", [-1, "soon", True, float("nan"), float("inf")])
def test_a_wrong_time_is_refused_in_one_line(make_app: Callable[..., Celery], name: str, value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"^{name} is a number of seconds or a timedelta"):
        make_app(**{name: value}).backend  # noqa: B018  # it is made here


# -- chords


@pytest.mark.parametrize(("chord_expires", "kept"), [(HOUR, 0), (7 * DAY, 1), (0, 1), (None, 0)])
def test_a_chord_that_never_completes_has_a_time_of_its_own(
    make_app: Callable[..., Celery], url: str, chord_expires: Any, kept: int
) -> None:
    app = make_app(url, result_expires=DAY, result_chord_expires=chord_expires)
    run(
        url,
        "INSERT INTO celery_chord (id, created_at, done) VALUES ('chord', now() - interval '3 days', 1)",
        "INSERT INTO celery_chord_part (chord_id, task_id, status) VALUES ('chord', 'part', 'SUCCESS')",
        "INSERT INTO celery_tasksetmeta (id, taskset_id, date_done)"
        " VALUES (nextval('taskset_id_sequence'), 'chord', now() - interval '3 days')",
    )
    app.backend.cleanup()
    tables = ("celery_chord", "celery_chord_part", "celery_tasksetmeta")
    assert [count(url, table) for table in tables] == [kept] * 3


@pytest.mark.parametrize("nested", [False, True])
def test_a_chord_that_outlives_the_results_of_its_parts_gets_their_values(probe: Probe, nested: bool) -> None:
    """The last part returns days after the others, whose own results are gone."""
    conf = {"result_expires": HOUR, "result_chord_expires": 7 * DAY}
    probe.app.conf.update(conf)
    probe.start(pool="threads", conf=conf)
    gate, tag = unique("gate"), unique("last")
    quick: Any = [probe.app.signature("probe.add", [1, 2])]
    if nested:
        quick = [quick[0] | group(quick * 2)]
    sent = chord(
        [*quick, probe.app.signature("probe.run", [tag, gate])],
        probe.app.signature("probe.body", kwargs={"tag": unique("body")}),
    ).apply_async()
    probe.wait_for("start", tag)
    parts = 2 if nested else 1
    done = "SELECT coalesce(sum(done), 0) FROM celery_chord"
    wait_until(lambda: scalar(probe.url, done) == parts, DEADLINE_S, "the quick parts")
    run(
        probe.url,
        "UPDATE celery_taskmeta SET date_done = date_done - interval '3 days'",
        "UPDATE celery_tasksetmeta SET date_done = date_done - interval '3 days'",
        "UPDATE celery_chord SET created_at = created_at - interval '3 days'",
    )
    probe.app.backend.cleanup()
    assert count(probe.url, "celery_taskmeta") == 0
    assert count(probe.url, "celery_tasksetmeta") == int(nested)
    probe.open(gate)
    assert answer(sent) == ([[6, 6], tag] if nested else [3, tag])


# -- exists


def test_a_result_exists_once_a_state_is_stored(make_app: Callable[..., Celery], url: str) -> None:
    options = {"waiting_state": "SENT"}
    for app in (make_app(url), make_app(url, result_backend_transport_options=options)):
        waiting = app.send_task("probe.echo", [1])

        def exists(task_id: str, app: Celery = app) -> bool:
            result = app.AsyncResult(task_id)
            return bool(result.exists() if celery.VERSION >= (5, 7) else app.backend.task_result_exists(task_id))

        assert [exists(waiting.id), exists("nobody")] == [False, False]
        for state in (states.STARTED, states.PENDING, "PROGRESS", states.SUCCESS):
            task_id = unique(state)
            app.backend.store_result(task_id, None, state)
            assert exists(task_id)
        app.AsyncResult(task_id).forget()
        assert not exists(task_id)
        assert stored(url, task_id) is None


def test_an_id_may_be_a_uuid(make_app: Callable[..., Celery], url: str) -> None:
    app, task_id = make_app(url), uuid4()
    app.backend.store_result(str(task_id), 7, states.SUCCESS)
    result = app.AsyncResult(task_id)  # type: ignore[arg-type]
    assert (result.state, result.get(timeout=60), app.backend.task_result_exists(task_id)) == (states.SUCCESS, 7, True)


def test_children_are_read_in_each_of_stocks_forms(make_app: Callable[..., Celery], url: str) -> None:
    """From Celery 5.7 on, stock stores them with the application's serializer."""
    app = make_app(url)
    for serialized in (json.dumps([[["child", None], None]]).encode(), pickle.dumps([(("child", None), None)], 4)):
        app.backend.store_result("parent", 1, states.SUCCESS)
        run(url, f"UPDATE celery_taskmeta SET children = '\\x{serialized.hex()}'")  # noqa: S608  # our own bytes
        (child,) = app.AsyncResult("parent").children or []
        assert child.id == "child"
    evil = b"cos\nsystem\n(S'true'\ntR."
    run(url, f"UPDATE celery_taskmeta SET children = '\\x{evil.hex()}'")  # noqa: S608
    with pytest.raises(SecurityError):
        app.AsyncResult("parent").children  # noqa: B018  # it is read here
