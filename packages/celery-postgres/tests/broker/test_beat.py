"""Several `celery beat`s at once, killed, cut off and refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg2
import pytest
from celery import Celery
from celery.schedules import BaseSchedule, crontab, maybe_schedule

from app.core.dsn import PostgresDSN
from celery_postgres import operations
from celery_postgres.beat import LOOK_S, Scheduler
from celery_postgres.readmodel import ReadModel
from celery_postgres.readmodel.schedule_words import words
from environment.testkit.beats import EVERY_S, SCHEDULE, Beat, beating
from environment.testkit.databases import rows
from environment.testkit.kombu_programs import environment
from environment.testkit.probe import DEADLINE_S, broker
from environment.testkit.tables import rows_of, run, scalar, terminate
from environment.waiting import wait_until

STATE = "SELECT last_run_at, runs FROM celery_beat_entry WHERE name = 'tick'"


@pytest.fixture
def start_beat(plain_database: Any, tmp_path: Path) -> Iterator[Callable[..., Beat]]:
    """``start_beat(schedule, **conf)``: a `celery beat`; its log is `tmp_path / "beat.log"`."""
    with beating(plain_database.url, tmp_path) as beats:
        yield lambda schedule=SCHEDULE, **conf: beats.start(schedule=schedule, **conf)


def sent(url: str, more_than: int) -> int:
    wait_until(lambda: rows_of(url, "ticks") > more_than, DEADLINE_S, f"more than {more_than} messages")
    return rows_of(url, "ticks")


def sessions(url: str) -> list[tuple[int, str]]:
    """Of the beats of this test, whose database is its own: server process, and which beat."""
    return rows(
        url,
        "SELECT pid, application_name FROM pg_stat_activity"
        " WHERE application_name LIKE 'beat-_' AND datname = current_database()",
    )


def test_two_beats_send_each_run_once_and_one_goes_on_after_the_other_is_killed(
    start_beat: Callable[..., Beat], plain_database: Any
) -> None:
    url = plain_database.url
    beats = [start_beat(), start_beat()]
    wait_until(lambda: {name for _, name in sessions(url)} == {"beat-0", "beat-1"}, DEADLINE_S, "both beats")
    sent(url, 0)
    run(url, "UPDATE celery_beat_entry SET last_run_at = clock_timestamp()")
    since, before = rows(url, STATE)[0]

    count = sent(url, before + 10)
    beats[0].kill()
    beats[0].wait()
    sent(url, count + 10)

    last, runs = rows(url, STATE)[0]
    assert runs - before <= (last - since).total_seconds() / EVERY_S + 1
    beats[1].terminate()
    assert beats[1].wait(DEADLINE_S) == 0
    # A run and its message are one transaction, also of the one that was killed.
    assert rows_of(url, "ticks") == scalar(url, "SELECT runs FROM celery_beat_entry")


def test_an_entry_that_was_due_while_no_beat_ran_is_sent_once(
    start_beat: Callable[..., Beat], plain_database: Any
) -> None:
    url = plain_database.url
    run(url, "INSERT INTO celery_beat_entry (name, last_run_at) VALUES ('tick', now() - interval '3 days')")
    start_beat({"tick": {**SCHEDULE["tick"], "schedule": 3600}})
    start_beat({"tick": {**SCHEDULE["tick"], "schedule": 3600}})
    sent(url, 0)
    wait_until(lambda: {name for _, name in sessions(url)} == {"beat-0", "beat-1"}, DEADLINE_S, "both beats")
    assert rows_of(url, "ticks") == 1


def test_a_lost_connection_loses_no_run(start_beat: Callable[..., Beat], plain_database: Any, tmp_path: Path) -> None:
    url = plain_database.url
    beat = start_beat()
    count = sent(url, 2)
    for pid, _ in sessions(url):
        terminate(url, pid)
    sent(url, count + 3)
    beat.terminate()
    assert beat.wait(DEADLINE_S) == 0
    assert rows_of(url, "ticks") == scalar(url, "SELECT runs FROM celery_beat_entry")
    assert "Beat cannot reach its database" in (tmp_path / "beat.log").read_text()


def test_an_entry_that_cannot_be_serialized_does_not_block_the_others(
    start_beat: Callable[..., Beat], plain_database: Any, tmp_path: Path
) -> None:
    wrong = {"task": "probe.echo", "schedule": EVERY_S, "args": [1]}
    wrong["options"] = {"queue": "ticks", "serializer": "hunter2"}
    start_beat({"wrong": wrong, **SCHEDULE})
    sent(plain_database.url, 3)
    log = (tmp_path / "beat.log").read_text()
    assert "The entry 'wrong' was not sent (" in log
    assert "hunter2" not in log


def test_an_entry_that_postgresql_refuses_does_not_block_the_others(
    start_beat: Callable[..., Beat], plain_database: Any, tmp_path: Path
) -> None:
    url = plain_database.url
    run(url, "ALTER TABLE kombu_message ADD CONSTRAINT no_wrong CHECK (payload NOT LIKE '%hunter2%')")
    wrong = {"task": "probe.echo", "schedule": EVERY_S, "args": ["hunter2"], "options": {"queue": "ticks"}}
    start_beat({"wrong": wrong, **SCHEDULE})
    sent(url, 3)
    log = (tmp_path / "beat.log").read_text()
    assert "The entry 'wrong' was not sent: SQLSTATE 23514 (" in log
    assert "no_wrong" in log
    assert "hunter2" not in log
    assert scalar(url, "SELECT runs FROM celery_beat_entry WHERE name = 'wrong'") > 0


@pytest.mark.parametrize(
    ("queue", "arguments", "told"),
    [
        ("q" * 300, {}, "the broker refused it (Channel.queue_declare: (406) PRECONDITION_FAILED"),
        ("short-lived", {"x-expires": 2**70}, "PostgreSQL refused it ("),
    ],
    ids=["a name too long", "a number too large"],
)
def test_an_entry_whose_queue_is_refused_does_not_block_the_others(
    start_beat: Callable[..., Beat],
    plain_database: Any,
    tmp_path: Path,
    queue: str,
    arguments: dict[str, int],
    told: str,
) -> None:
    url = plain_database.url
    wrong = {"task": "probe.echo", "schedule": EVERY_S, "args": [1], "options": {"queue": queue}}
    beat = start_beat({"wrong": wrong, **SCHEDULE}, task_queues={queue: {"queue_arguments": arguments}})
    sent(url, sent(url, 3) + 3)
    beat.terminate()
    assert beat.wait(DEADLINE_S) == 0
    log = (tmp_path / "beat.log").read_text()
    assert f"The entry 'wrong' was not sent: {told}" in log
    assert "'tick' was not sent" not in log
    assert "cannot reach" not in log
    assert rows_of(url, "ticks") == rows(url, STATE)[0][1]


def test_an_entry_whose_queue_cannot_be_declared_now_is_sent_later(
    start_beat: Callable[..., Beat], plain_database: Any, tmp_path: Path
) -> None:
    url = plain_database.url
    run(url, f"ALTER DATABASE \"{plain_database.name}\" SET lock_timeout = '50ms'")
    run(url, "INSERT INTO kombu_queue (id, name) VALUES (nextval('queue_id_sequence'), 'ticks')")
    later = {"task": "probe.echo", "schedule": EVERY_S, "args": [1], "options": {"queue": "later"}}
    with closing(psycopg2.connect(PostgresDSN.parse(url).libpq())) as connection:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE kombu_queue IN SHARE MODE")  # no queue can be made; publishing goes on
        beat = start_beat({"later": later, **SCHEDULE})
        for _ in range(3):  # each time behind another failure
            sent(url, rows_of(url, "ticks") + 1)
        assert scalar(url, "SELECT runs FROM celery_beat_entry WHERE name = 'later'") == 0
        connection.rollback()
    wait_until(lambda: rows_of(url, "later") > 0, DEADLINE_S, "what could not be sent")
    beat.terminate()
    assert beat.wait(DEADLINE_S) == 0
    for entry, queue in (("tick", "ticks"), ("later", "later")):
        assert rows_of(url, queue) == scalar(url, f"SELECT runs FROM celery_beat_entry WHERE name = '{entry}'")  # noqa: S608
    assert "was not sent" not in (tmp_path / "beat.log").read_text()


def test_a_database_without_tables_cannot_be_used_until_it_has_them(
    start_beat: Callable[..., Beat], plain_database: Any, tmp_path: Path
) -> None:
    run(plain_database.url, "ALTER TABLE celery_beat_entry RENAME TO away")
    start_beat()
    log = tmp_path / "beat.log"
    wait_until(lambda: "Beat cannot use its database (" in log.read_text(), DEADLINE_S, "beat to say so")
    run(plain_database.url, "ALTER TABLE away RENAME TO celery_beat_entry")
    sent(plain_database.url, 0)


@pytest.mark.parametrize("name", ["a\0b", "half \ud800", "x" * 3_000], ids=["NUL", "surrogate", "long"])
def test_a_name_that_cannot_be_stored_is_refused_at_start(
    start_beat: Callable[..., Beat], tmp_path: Path, name: str
) -> None:
    assert start_beat({name: SCHEDULE["tick"]}).wait(DEADLINE_S) != 0
    last = (tmp_path / "beat.log").read_text().splitlines()[-1]
    assert "celery_postgres.beat cannot store the name of the entry" in last


def test_a_beat_that_is_told_to_end_while_it_sends_an_entry_notes_its_end(plain_database: Any) -> None:
    url = plain_database.url
    app = Celery("beat", broker=broker(url, "beat"), set_as_current=False)
    app.conf.update(beat_schedule={"daily": {"task": "t", "schedule": 86_400}}, result_expires=None)
    scheduler = Scheduler(app=app)
    scheduler.tick()
    session = scheduler._session
    assert session is not None

    def is_told_to_end() -> None:
        with session.transaction():
            session.script("UPDATE celery_beat_entry SET runs = 99")
            scheduler.close()  # as in the handler of TERM
            raise SystemExit

    with pytest.raises(SystemExit):
        is_told_to_end()
    assert rows(url, "SELECT stopped_at IS NOT NULL FROM celery_beat") == [(True,)]
    assert rows(url, "SELECT count(*) FROM celery_beat_entry WHERE runs = 99") == [(0,)]


def test_operators_disable_enable_and_send_entries(
    start_beat: Callable[..., Beat], plain_database: Any, tmp_path: Path
) -> None:
    url = plain_database.url
    yearly = {"task": "probe.add", "schedule": 31e6, "args": [1, 2], "options": {"queue": "yearly"}}
    beats = [start_beat({**SCHEDULE, "yearly": yearly}) for _ in range(2)]
    sent(url, 2)
    with closing(ReadModel(url)) as model, operations.connect(url) as broker:
        wait_until(lambda: len(model.beats()) == 2, DEADLINE_S, "both beats to report")
        assert broker.disable_schedule("tick")
        assert not broker.disable_schedule("tick")
        # No beat sends it from here on, whether it has noticed or not.
        runs, messages = scalar(url, "SELECT runs FROM celery_beat_entry WHERE name = 'tick'"), rows_of(url, "ticks")
        assert runs == messages
        assert broker.run_schedule("yearly")
        wait_until(lambda: rows_of(url, "yearly") == 1, DEADLINE_S, "what was asked for")
        assert rows(url, "SELECT runs, requested_at IS NULL FROM celery_beat_entry WHERE name = 'yearly'") == [
            (0, True)
        ]
        assert (rows_of(url, "ticks"), rows(url, STATE)[0][1]) == (messages, runs)
        wait_until(lambda: not model.schedules()[0].enabled, DEADLINE_S, "the reading after that")
        disabled = model.schedules()[0]
        assert (disabled.entry, disabled.overdue_s, disabled.next_run_at) == ("tick", None, None)
        wait_until(lambda: model.schedules()[1].last is not None, DEADLINE_S, "what was sent")
        asked = model.schedules()[1]
        assert (asked.task, asked.schedule, asked.listed) == ("probe.add", "every 358 d 19 h", True)
        assert asked.last is not None
        assert (asked.last.state, asked.last.queue) == ("waiting", "yearly")
        assert asked.next_run_at is not None
        assert asked.next_run_at > asked.last_run_at + timedelta(days=300)
        run(url, "UPDATE celery_beat_entry SET last_run_at = now() - interval '1 hour' WHERE name = 'tick'")
        assert broker.enable_schedule("tick")
        sent(url, messages + 2)
        assert not broker.run_schedule("no such entry")
    for beat in beats:
        beat.terminate()
        assert beat.wait(DEADLINE_S) == 0
    assert rows(url, "SELECT count(*) FROM celery_beat WHERE stopped_at IS NOT NULL") == [(2,)]
    assert rows_of(url, "ticks") == rows(url, STATE)[0][1]
    assert "was not sent" not in (tmp_path / "beat.log").read_text()


def test_a_request_that_cannot_be_sent_now_stays_and_holds_up_nothing(
    start_beat: Callable[..., Beat], plain_database: Any, tmp_path: Path
) -> None:
    url = plain_database.url
    run(url, f"ALTER DATABASE \"{plain_database.name}\" SET lock_timeout = '50ms'")
    run(url, "INSERT INTO kombu_queue (id, name) VALUES (nextval('queue_id_sequence'), 'ticks')")
    run(url, "INSERT INTO celery_beat_entry (name, last_run_at, requested_at) VALUES ('later', now(), now())")
    later = {"task": "probe.echo", "schedule": 3600, "args": [1], "options": {"queue": "later"}}
    with closing(psycopg2.connect(PostgresDSN.parse(url).libpq())) as connection:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE kombu_queue IN SHARE MODE")  # no queue can be made; publishing goes on
        start_beat({"later": later, **SCHEDULE})
        sent(url, 3)
        connection.rollback()
    wait_until(lambda: rows_of(url, "later") > 0, DEADLINE_S, "what was asked for")
    assert "The entry 'later' could not be sent now (" in (tmp_path / "beat.log").read_text()


def test_a_beat_replaces_the_row_of_the_one_before_it_on_its_machine(
    plain_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = plain_database.url
    app = Celery("beat", broker=broker(url, "beat"), set_as_current=False)
    app.conf.update(beat_schedule={"daily": {"task": "t", "schedule": 86_400}}, result_expires=None)
    run(
        url,
        "INSERT INTO celery_beat (id, hostname, pid, entries, seen_at) VALUES"
        " (1, 'here', 1, '{}', now() - interval '31 seconds'), (2, 'another', 1, '{}', now() - interval '23 hours'),"
        " (3, 'long-gone', 1, '{}', now() - interval '25 hours')",
    )
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    with closing(Scheduler(app=app)) as scheduler:
        assert 0 <= scheduler.tick() <= LOOK_S
        assert sorted(one for (one,) in rows(url, "SELECT id FROM celery_beat WHERE id < 9")) == [2]
        run(url, "DELETE FROM celery_beat")
        scheduler._next_look = 0.0
        scheduler.tick()
        assert rows(url, "SELECT entries FROM celery_beat") == [(["daily"],)]


@pytest.mark.parametrize(
    ("when", "shown"),
    [
        (0.2, "every 0.2 s"),
        (300, "every 5 min"),
        (crontab(), "every minute"),
        (crontab(minute="*/15"), "every 15 min"),
        (crontab(minute=30), "hourly at :30"),
        (crontab(minute=0, hour=3), "daily at 03:00"),
        (crontab(minute=0, hour=7, day_of_week="1-5"), "cron 0 7 * * 1-5"),
        (BaseSchedule(), "by BaseSchedule"),
    ],
)
def test_a_schedule_in_words(when: Any, shown: str) -> None:
    assert words(maybe_schedule(when)) == shown


def test_another_broker_is_refused_with_a_one_line_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "celery",
            "-b",
            "memory://",
            "beat",
            "--pidfile=",
            "-S",
            "celery_postgres.beat:Scheduler",
        ],
        env={**environment(), "COLUMNS": "200"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "celery_postgres.beat needs a broker on PostgreSQL" in done.stdout + done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York"])
def test_the_hours_of_a_crontab_are_those_of_celerys_time_zone(plain_database: Any, zone: str) -> None:
    here = datetime.now(ZoneInfo(zone))
    soon, past = here + timedelta(minutes=2), here - timedelta(minutes=2)
    app = Celery("zones", broker="sqla+" + plain_database.url, set_as_current=False)
    app.conf.update(
        timezone=zone,
        result_expires=None,
        beat_schedule={
            "soon": {"task": "t", "schedule": crontab(hour=soon.hour, minute=soon.minute)},
            "past": {"task": "t", "schedule": crontab(hour=past.hour, minute=past.minute)},
        },
    )
    run(
        plain_database.url,
        "INSERT INTO celery_beat_entry (name, last_run_at, runs) VALUES"
        " ('soon', date_trunc('minute', now()) + interval '2 minutes 20 ms' - interval '1 day', 1),"
        " ('past', date_trunc('minute', now()) - interval '2 minutes' + interval '20 ms', 1)",
    )
    scheduler = Scheduler(app)
    try:
        scheduler.tick()
        found = {name: scheduler.schedule[name].is_due() for name in ("soon", "past")}
    finally:
        scheduler.close()
    assert not any(due for due, _ in found.values())
    assert 0 < found["soon"].next <= 120
    assert 22 * 3600 < found["past"].next < 26 * 3600  # a day, give or take the hour of a change of clocks
    assert rows(plain_database.url, "SELECT sum(runs) FROM celery_beat_entry") == [(2,)]


@pytest.mark.parametrize("ahead_s", [-3600, 3600], ids=["behind", "ahead"])
def test_a_new_entry_counts_from_now_by_the_clock_of_its_beat(
    plain_database: Any, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    app = Celery("beat", broker=broker(plain_database.url, "beat"), set_as_current=False)
    app.conf.beat_schedule = {"hourly": {"task": "probe.echo", "schedule": 1800.0, "options": {"queue": "ticks"}}}
    right, since = app.now, timedelta()
    monkeypatch.setattr(app, "now", lambda: right() + timedelta(seconds=ahead_s) + since)
    scheduler = Scheduler(app=app)
    with closing(scheduler):
        assert scheduler.tick() > 0
        assert rows_of(plain_database.url, "ticks") == 0
        since = timedelta(seconds=1801)
        wait_until(lambda: scheduler.tick() >= 0 and rows_of(plain_database.url, "ticks") == 1, DEADLINE_S, "the run")


def test_beat_reconnects_with_the_usual_backoff() -> None:
    app = Celery("beat", broker="sqla+postgresql://u@127.0.0.1:1/d", set_as_current=False)
    scheduler = Scheduler(app)
    pauses = [scheduler.tick() for _ in range(20)]
    scheduler.close()
    assert all(0 < pause <= 2 for pause in pauses)
    assert pauses[-1] > 1
