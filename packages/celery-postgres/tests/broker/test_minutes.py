"""What consumers count by the minute: how it is stored, and added up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.exceptions import TimeLimitExceeded

from celery_postgres.database.histogram import CLASSES
from celery_postgres.database.minute_store import MinuteRow, MinuteStore, Retention
from celery_postgres.database.minute_view_store import MinuteViewStore
from celery_postgres.database.pool import Sessions
from celery_postgres.database.session import Session
from celery_postgres.readmodel import DAY, HOUR, WEEK, ReadModel
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, POOLS, Probe
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until

COUNTS = "queue, name, started, done, failed, retried, waited[1], ran[16]"
ALL = f"SELECT consumer_id, {COUNTS} FROM celery_minute ORDER BY 1, 2, 3"  # noqa: S608
HOURS = f"SELECT {COUNTS} FROM celery_hour ORDER BY hour"  # noqa: S608


@pytest.fixture
def url(plain_database: Any) -> str:
    return str(plain_database.url)


@pytest.fixture
def store(url: str) -> Iterator[MinuteStore]:
    with closing(Session(url)) as session:
        yield MinuteStore(session)


def this_minute() -> int:
    return int(time.time() // 60)


def counted(minute: int, consumer: int, name: str = "n", *, started: int = 5) -> MinuteRow:
    row = MinuteRow(minute, consumer, "q", name, started=started, done=3, failed=1, retried=1)
    row.waited[0], row.ran[CLASSES - 1] = started, 5
    return row


def test_a_row_that_is_written_again_is_replaced(url: str, store: MinuteStore) -> None:
    row = counted(this_minute(), 7)
    clock = store.write([row, counted(this_minute(), 7, 'odd "name", {with} \\ all')])
    assert clock == pytest.approx(time.time(), abs=60)
    row.started, row.waited[0] = 8, 8
    store.write([row])
    store.write([row])
    assert rows(url, ALL) == [
        (7, "q", "n", 8, 3, 1, 1, 8, 5),
        (7, "q", 'odd "name", {with} \\ all', 5, 3, 1, 1, 5, 5),
    ]
    assert store.write([]) >= clock


def test_old_minutes_are_added_up_for_all_consumers(url: str, store: MinuteStore) -> None:
    old = this_minute() - 60
    store.write([counted(old, 7), counted(old, 8), counted(old, 8, "other"), counted(this_minute(), 7)])
    store.tidy(Retention())
    store.write([counted(old, 9)])  # by one that could not write it earlier
    store.tidy(Retention())
    assert rows(url, ALL) == [
        (0, "q", "n", 15, 9, 3, 3, 15, 15),
        (0, "q", "other", 5, 3, 1, 1, 5, 5),
        (7, "q", "n", 5, 3, 1, 1, 5, 5),
    ]


#: What the minutes of all queues together are by their own rows; and by the sums.
OWN_MINUTES = """
    SELECT minute, name, sum(started), sum(done), sum(failed), sum(retried), sum(waited[1]), sum(ran[16]), sum(ran[1])
    FROM celery_minute WHERE consumer_id = 0 GROUP BY 1, 2 ORDER BY 1, 2
"""
ADDED_UP = """
    SELECT minute, name, started, done, failed, retried, waited[1], ran[16], ran[1] FROM celery_minute_sum
    WHERE NOT whole ORDER BY 1, 2
"""


def test_the_minutes_of_all_queues_are_summed_whichever_release_adds_them_up(url: str, store: MinuteStore) -> None:
    old = this_minute() - 60
    for consumer in (7, 8):
        rows_of = [counted(old + minute, consumer, name) for minute in range(3) for name in ("a", "b")]
        for row in rows_of[::2]:
            row.queue = "other"
        store.write([*rows_of, *(replace(row, queue="third") for row in rows_of)])
        assert len(rows(url, ADDED_UP)) == (0 if consumer == 7 else 6)  # what one consumer has counted is not summed
        store.tidy(Retention())
        assert rows(url, OWN_MINUTES) == rows(url, ADDED_UP)
    run(url, "DELETE FROM celery_minute", "UPDATE celery_minute_sum SET waited = '{}'")
    store.write([counted(old, 9, "a")])
    store.tidy(Retention())
    assert rows(url, "SELECT waited[1] FROM celery_minute_sum WHERE waited <> '{}'") == [(5,), (5,)]
    store.tidy(Retention(minutes_s=60.0))
    assert rows(url, ADDED_UP) == []


def test_all_queues_are_read_from_sums_and_from_what_is_not_added_up_yet(url: str, store: MinuteStore) -> None:
    now = this_minute()
    of_queues = [replace(counted(now - minute, 7), queue=queue) for minute in (0, 1, 9, 40) for queue in ("q", "r")]
    store.write(of_queues)
    views = MinuteViewStore(Sessions(url))
    since, lately = (datetime.fromtimestamp(60 * (now - minutes), UTC) for minutes in (59, 20))
    before = since + timedelta(days=1)
    asked = views.counts(since, before, lately)
    earlier = views.outcomes(since, lately)
    store.tidy(Retention())
    minutes, outcomes = views.counts(since, before, lately)
    assert (sorted(minutes, key=lambda one: one.at), outcomes) == (sorted(asked[0], key=lambda one: one.at), asked[1])
    assert views.outcomes(since, lately) == earlier
    assert [one.started for one in minutes] == [10] * 4
    ((name, ended, failed, first),) = [(one.name, one.ended, one.failed, one.first_failure) for one in outcomes]
    assert (name, ended, failed, first) == ("n", 24, 6, lately + timedelta(minutes=11))
    assert [(one.ended, one.failed) for one in earlier] == [(8, 2)]


def test_minutes_become_hours_and_hours_end(url: str, store: MinuteStore) -> None:
    store.BATCH = 3
    old = (this_minute() - 600) // 60 * 60
    store.write([counted(old + minute, consumer) for minute in range(10) for consumer in (7, 8)])
    store.write([counted(old + 60, 7)])
    store.tidy(Retention(minutes_s=3600.0))
    assert rows(url, ALL) == []
    assert rows(url, HOURS) == [("q", "n", 100, 60, 20, 20, 100, 100), ("q", "n", 5, 3, 1, 1, 5, 5)]
    assert scalar(url, "SELECT bool_and(hour = date_trunc('hour', hour)) FROM celery_hour")
    store.tidy(Retention(3600.0, 3600.0))
    assert rows(url, HOURS) == []


def test_several_that_add_up_at_once_lose_nothing(url: str, store: MinuteStore) -> None:
    old = this_minute() - 300
    minutes = range(old, old + 200)
    store.write([counted(minute, consumer, f"n{minute % 7}") for minute in minutes for consumer in range(1, 9)])
    failures: list[Exception] = []

    def tidy() -> None:
        try:
            with closing(Session(url)) as session:
                own = MinuteStore(session)
                own.BATCH = 50
                own.tidy(Retention(minutes_s=7200.0))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=tidy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    both = "(SELECT coalesce(sum({0}), 0) FROM celery_minute) + (SELECT coalesce(sum({0}), 0) FROM celery_hour)"
    assert scalar(url, "SELECT " + both.format("started")) == 200 * 8 * 5
    assert scalar(url, "SELECT " + both.format("waited[1]")) == 200 * 8 * 5
    assert rows(url, ADDED_UP) == rows(url, OWN_MINUTES) != []


def test_names_and_queues_have_a_limit(url: str) -> None:
    columns = "(minute, consumer_id, queue, name, started, done, failed, retried, waited, ran)"
    with pytest.raises(Exception, match="celery_minute_name_check"):
        run(
            url,
            f"INSERT INTO celery_minute {columns} VALUES (now(), 1, 'q', repeat('n', 201), 1, 1, 1, 1, '{{}}', '{{}}')",  # noqa: S608
        )


def test_what_waits_is_noted_once_a_minute_and_forgotten(url: str, store: MinuteStore) -> None:
    run(
        url,
        "INSERT INTO kombu_queue (id, name) VALUES (1, 'q'), (2, 'empty')",
        "INSERT INTO kombu_queue (id, name, auto_delete) VALUES (3, 'reply.pidbox', true)",
        "INSERT INTO kombu_message (queue_id, payload, enqueued_at)"
        " SELECT 1, 'x', now() - interval '1 hour' FROM generate_series(1, 10002)",
        "INSERT INTO kombu_message (queue_id, payload, available_at) VALUES (2, 'x', now() + interval '1 hour')",
    )
    for _ in range(2):
        store.note_depths([1, 2, 3])
    noted = "SELECT queue, waiting, oldest_s > 3500 FROM celery_depth ORDER BY queue"
    assert {row[0] for row in rows(url, noted)} == {"empty", "q"}
    assert set(rows(url, noted)) == {("empty", 0, None), ("q", 10_001, True)}
    run(url, "UPDATE celery_depth SET minute = minute - interval '3 days'")
    store.tidy(Retention())
    assert rows(url, noted) == []


def test_the_last_hour_of_a_queue(url: str, store: MinuteStore) -> None:
    now = this_minute()
    store.write([counted(now - 1, 7), counted(now - 1, 8), counted(now - 70, 7)])
    run(
        url,
        f"INSERT INTO celery_depth SELECT to_timestamp({now - 2} * 60 + n * 60), 'q', 40 + n * 30, 1"  # noqa: S608
        " FROM generate_series(0, 2) AS n",
    )
    with closing(ReadModel(url)) as model:
        hour, every = model.past(HOUR, "q"), model.overview().hour
        assert model.past(HOUR, "another").latest.started == 0
    assert every is not None
    assert len(hour.steps) == len(every.steps) == 60
    # Another minute may have begun since it was written.
    assert [one.finished for one in hour.steps if one.finished] == [8]
    assert every.finished == 8
    assert [one for one in hour.came if one is not None][-1] == 40  # ten began, and thirty more wait than before
    assert hour.grows_by == 30
    assert hour.waited_s(0.5) is not None


def test_a_day_and_a_week_are_of_minutes_and_of_the_hours_that_they_have_become(url: str, store: MinuteStore) -> None:
    now = this_minute()
    store.write([counted(now - 1, 7), counted(now - 1, 8), counted(now - 600, 7)])
    run(
        url,
        "UPDATE celery_minute SET consumer_id = 0 WHERE minute < now() - interval '1 hour'",
        "INSERT INTO celery_hour SELECT date_trunc('hour', now() - n * interval '1 hour'), 'q', 'n', 4, 3, 1, 0,"
        " array_fill(0, ARRAY[16]), array_fill(0, ARRAY[16]) FROM unnest(ARRAY[60, 61, 62, 24 * 40]) AS n",
        "INSERT INTO celery_depth SELECT date_trunc('hour', now()) - n * interval '1 minute', 'q', 1000 - n, 1"
        " FROM generate_series(1, 120) AS n",
    )
    with closing(ReadModel(url)) as model:
        past = {(span.name, queue): model.past(span, queue) for span in (DAY, WEEK) for queue in (None, "q", "another")}
        store.write([counted(now - 2, 500)])
        assert model.past(DAY, "q") is past["day", "q"], "one reading a minute, however many look"
    assert {key: (len(one.steps), one.finished, one.failed) for key, one in past.items()} == {
        ("day", None): (24, 12, 3), ("day", "q"): (24, 12, 3), ("day", "another"): (24, 0, 0),
        ("week", None): (56, 24, 6), ("week", "q"): (56, 24, 6), ("week", "another"): (56, 0, 0),
    }  # fmt: skip
    day = past["day", "q"]
    assert day.waited_s(0.5) == past["week", None].waited_s(0.5) == pytest.approx(0.006, abs=0.003)
    assert [one.at.minute for one in day.steps] == [0] * 24
    assert [one.waiting.number for one in day.depths if one is not None] == [880, 940]
    assert day.steps[-2].at - day.steps[0].at == timedelta(hours=22)
    assert all(one.at.hour % 3 == 0 for one in past["week", "q"].steps)


# -- counted by workers

SUMS = """
    SELECT name, sum(started), sum(done), sum(failed), sum(retried),
        (SELECT sum(n) FROM celery_minute AS one, unnest(one.ran) AS n WHERE one.name = counted.name)
    FROM celery_minute AS counted WHERE queue = 'celery' GROUP BY name ORDER BY name
"""


@pytest.mark.parametrize("pool_name", ["threads", "prefork", "gevent"])
def test_a_worker_counts_how_each_attempt_ended(probe: Probe, pool_name: str) -> None:
    if pool_name == "gevent":
        pytest.importorskip("gevent")
    worker = probe.start(pool=pool_name, concurrency=POOLS.get(pool_name, 4))
    for number in range(3):
        probe.send("run_quiet", f"quiet-{number}")
        probe.send("run_late", f"late-{number}")
        probe.send("fail", f"fails-{number}")
    for task in ("again", "ignore", "reject"):
        probe.send(task, task)
    expected = [
        ("probe.again", 3, 1, 0, 2, 3),
        ("probe.fail", 3, 0, 3, 0, 3),
        ("probe.ignore", 1, 0, 0, 0, 0),
        ("probe.reject", 1, 0, 0, 0, 0),
        ("probe.run_late", 3, 3, 0, 0, 3),
        ("probe.run_quiet", 3, 3, 0, 0, 3),
    ]
    if pool_name == "prefork":  # what no child can tell
        probe.send("die", "dies").get(timeout=DEADLINE_S)
        with pytest.raises(TimeLimitExceeded):
            probe.send("spin", "spins", time_limit=1).get(timeout=DEADLINE_S)
        expected = sorted([*expected, ("probe.die", 2, 1, 1, 0, 2), ("probe.spin", 1, 0, 1, 0, 1)])
    probe.wait_for("start", "again", 3)
    wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "all tasks to have ended")
    worker.stop()  # it writes what it has counted
    assert rows(probe.url, SUMS) == expected
    assert scalar(probe.url, "SELECT count(*) FROM celery_minute WHERE queue <> 'celery' OR consumer_id = 0") == 0
    assert scalar(probe.url, "SELECT bool_and(minute > now() - interval '5 minutes') FROM celery_minute")


def test_a_worker_writes_while_it_runs_and_goes_on_without_the_table(probe: Probe) -> None:
    worker = probe.start()
    probe.send("run", "first").get(timeout=DEADLINE_S)
    wait_until(lambda: rows(probe.url, SUMS) == [("probe.run", 1, 1, 0, 0, 1)], DEADLINE_S, "the first count")
    run(probe.url, "DROP TABLE celery_minute")
    probe.send("run", "second").get(timeout=DEADLINE_S)
    wait_until(lambda: "cannot count how many tasks run" in worker.log_text(), DEADLINE_S, "it to say so")
    assert probe.send("run", "third").get(timeout=DEADLINE_S) == "third"
    worker.stop()
    assert worker.log_text().count("cannot count") == 1
