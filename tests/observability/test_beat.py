"""How late beat is, by its table and the schedule."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import BaseSchedule, crontab

from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.observability import beat
from celery_postgres.readmodel import ReadModel
from environment.testkit.databases import run


@pytest.fixture
def app(database: Any, monkeypatch: pytest.MonkeyPatch) -> Celery:
    monkeypatch.setattr(beat, "get_settings", lambda: Settings(database_url=database.url, _env_file=None))
    return Celery("scheduled", set_as_current=False)


def dsn_of(url: str) -> str:
    return PostgresDSN.parse(url).libpq()


def overdue(app: Celery) -> dict[str, float]:
    return {
        sample.labels["entry"]: sample.value
        for family in beat.BeatCollector(app).collect()
        if family.name == "celery_beat_overdue_seconds"
        for sample in family.samples
    }


def test_an_entry_is_late_from_when_it_is_due(app: Celery, database: Any) -> None:
    app.conf.beat_schedule = {
        "numbers": {"task": "t", "schedule": 60},
        "on-time": {"task": "t", "schedule": timedelta(hours=1)},
        "hourly": {"task": "t", "schedule": crontab(minute="0")},
        "never-seen": {"task": "t", "schedule": 60},
        "own": {"task": "t", "schedule": BaseSchedule()},
    }
    run(
        database.url,
        "INSERT INTO celery_beat_entry (name, last_run_at) VALUES ('numbers', now() - interval '160 seconds'),"
        " ('on-time', now() - interval '30 minutes'), ('hourly', now() - interval '2 hours'), ('own', now()),"
        " ('celery.backend_cleanup', now() - interval '3 days'), ('removed', now() - interval '3 days')",
    )
    found = overdue(app)
    assert set(found) == {"numbers", "on-time", "hourly"}
    assert 100 <= found["numbers"] < 130
    assert found["on-time"] == 0
    assert 3600 <= found["hourly"] <= 7230


@pytest.mark.parametrize(
    ("beats", "seen_s"),
    [
        ([], None),
        ([("'{}'", 40), ("'{numbers}'", 90_000)], None),  # it has no entries; and it ended before the last day
        ([("'{numbers}'", 400), ("'{numbers}'", 40)], 40),
    ],
)
def test_a_beat_was_seen_a_while_ago_as_the_console_says(
    app: Celery, database: Any, beats: list[tuple[str, int]], seen_s: float | None
) -> None:
    """Also where this worker has no schedule."""
    for number, (entries, age_s) in enumerate(beats):
        run(
            database.url,
            "INSERT INTO celery_beat (id, hostname, pid, entries, seen_at)"  # noqa: S608
            f" VALUES ({number}, 'here', 1, {entries}, now() - interval '{age_s} seconds')",
        )
    (found,) = [one.samples for one in beat.BeatCollector(app).collect() if one.name == "celery_beat_seen_age_seconds"]
    with closing(ReadModel(dsn_of(database.url))) as model:
        problems = [one.age_s for one in model.problems() if one.rule == "beatless"]
    values = [sample.value for sample in found]
    assert values == ([] if seen_s is None else [pytest.approx(seen_s, abs=20)])
    assert problems == ([] if seen_s is None else [pytest.approx(values[0], abs=20)])


def test_without_a_database_there_are_no_samples(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.beat_schedule = {"numbers": {"task": "t", "schedule": 60}}
    nowhere = Settings(database_url="postgresql://u@127.0.0.1:1/nothing", _env_file=None)
    monkeypatch.setattr(beat, "get_settings", lambda: nowhere)
    collector = beat.BeatCollector(app)
    assert [*collector.collect(), *collector.collect()] == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("of_the_database", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_the_database_session_s_time_zone_makes_nothing_late(app: Celery, database: Any, of_the_database: str) -> None:
    """A punctual entry of any hour."""
    run(database.url, f"ALTER DATABASE \"{database.name}\" SET timezone = '{of_the_database}'")
    app.conf.timezone = "Europe/Berlin"
    app.conf.beat_schedule = {
        f"at-{hour}": {"task": "t", "schedule": crontab(hour=str(hour), minute="0")} for hour in range(24)
    }
    now: datetime | None = None
    after = datetime.now(ZoneInfo("Europe/Berlin"))
    while now is None or now.hour != after.hour:  # as an hour begins, an entry becomes due
        now, entries = after, []
        for hour in range(24):
            today = now.replace(hour=hour, minute=0, second=0, microsecond=20_000)
            entries.append(f"('at-{hour}', '{(today if today < now else today - timedelta(days=1)).isoformat()}')")
        added = f"INSERT INTO celery_beat_entry (name, last_run_at) VALUES {', '.join(entries)}"  # noqa: S608
        run(database.url, "DELETE FROM celery_beat_entry", added)
        found, after = overdue(app), datetime.now(ZoneInfo("Europe/Berlin"))
    assert found == {f"at-{hour}": 0.0 for hour in range(24)}


def test_what_beat_s_deadline_lets_pass_is_not_late(app: Celery, database: Any) -> None:
    long_ago = datetime.now(ZoneInfo("UTC")) - timedelta(hours=3)
    app.conf.beat_cron_starting_deadline = 60
    app.conf.beat_schedule = {
        "missed": {"task": "t", "schedule": crontab(hour=str(long_ago.hour), minute=str(long_ago.minute))},
        "unknown-key": {"task": "t", "schedule": 60, "enabled": True},
    }
    run(
        database.url,
        "INSERT INTO celery_beat_entry (name, last_run_at) VALUES"
        " ('missed', now() - interval '26 hours'), ('unknown-key', now() - interval '1 hour')",
    )
    assert overdue(app) == {"missed": 0.0}
