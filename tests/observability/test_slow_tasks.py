"""What runs for long in the metrics: the same as the problem that the console and the terminal tool show."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest
from celery import Celery

from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.observability import slow_tasks
from app.observability.slow_tasks import SlowTaskCollector
from celery_postgres.database.histogram import CLASSES, class_of
from celery_postgres.readmodel import ReadModel, thresholds
from environment.testkit.databases import run

#: How long the runs of `usual` take: 95 % end within 116 s, by their class.
_RUNS_S = 100.0


@pytest.fixture
def app(database: Any, monkeypatch: pytest.MonkeyPatch) -> Celery:
    monkeypatch.setattr(slow_tasks, "get_settings", lambda: Settings(database_url=database.url, _env_file=None))
    app = Celery("slow", set_as_current=False)
    for name in ("usual", "rare"):
        app.task(name=name, shared=False)(nothing)
    return app


def nothing() -> None: ...


def running(url: str, **tasks: float) -> None:
    reported = json.dumps([{"id": task, "task": task, "for_s": for_s} for task, for_s in tasks.items()])
    run(
        url,
        "DELETE FROM kombu_consumer",
        "INSERT INTO kombu_consumer (hostname, pid, name, beat_at, busy, running)"  # noqa: S608
        f" VALUES ('here', 1, 'w@here', now(), 1, '{reported}')",
    )


def ended(url: str, task: str, runs: int) -> None:
    ran = [0] * CLASSES
    ran[class_of(_RUNS_S)] = runs
    run(
        url,
        "INSERT INTO celery_minute (minute, consumer_id, queue, name, started, done, failed, retried, waited, ran)"  # noqa: S608
        f" VALUES (date_trunc('minute', now() - interval '1 hour'), 1, 'celery', '{task}', {runs}, {runs}, 0, 0,"
        f" array_fill(0, ARRAY[{CLASSES}]), ARRAY{ran})",
    )


def shown(app: Celery) -> dict[tuple[str, str], float]:
    return {
        (sample.name.removeprefix("celery_task_"), sample.labels["task"]): sample.value
        for family in SlowTaskCollector(app).collect()
        for sample in family.samples
    }


def slow(url: str) -> list[str]:
    with closing(ReadModel(PostgresDSN.parse(url).libpq())) as model:
        return [one.subject for one in model.problems() if one.rule == "slow"]


def test_a_run_is_slow_in_the_metrics_when_it_is_a_problem(app: Celery, database: Any) -> None:
    ended(database.url, "usual", thresholds.FEWEST_RUNS)
    ended(database.url, "rare", thresholds.FEWEST_RUNS - 1)
    for ran_s, is_slow in ((500.0, False), (2000.0, True)):
        running(database.url, usual=ran_s, rare=3600, unknown=3600)
        found = shown(app)
        both = "longest_run_seconds", "usual_run_seconds"
        assert set(found) == {(both[0], "usual"), (both[0], "rare"), (both[1], "usual")}
        longest, usual = found["longest_run_seconds", "usual"], found["usual_run_seconds", "usual"]
        assert (longest > thresholds.SLOW_TIMES.warning * usual) is is_slow
        assert slow(database.url) == (["usual"] if is_slow else [])


def test_minutes_are_read_only_while_something_runs_for_long(app: Celery, database: Any) -> None:
    running(database.url, usual=thresholds.SLOW_LEAST_S / 2)
    run(database.url, "ALTER TABLE celery_minute RENAME TO elsewhere")
    assert shown(app) == {}


def test_what_a_worker_reports_is_anything(app: Celery, database: Any, caplog: pytest.LogCaptureFixture) -> None:
    running(database.url)
    for reported in ('"text"', "[1, null]", '[{"task": "usual", "for_s": "x"}]', '[{"task": "usual", "for_s": 1e300}]'):
        run(database.url, f"UPDATE kombu_consumer SET running = '{reported}'")  # noqa: S608
        assert set(shown(app)) <= {("longest_run_seconds", "usual")}
    assert not caplog.records, "all could be read"
