"""What the console, the tool and the metrics are shown: on messages that Celery wrote and consumers claimed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg2
import pytest
from celery import Celery
from kombu import Queue

from celery_postgres import operations
from celery_postgres.database import claim_view_store, task_view_store, watchdog
from celery_postgres.database.minute_store import MinuteRow, MinuteStore
from celery_postgres.database.per_process import PerProcess
from celery_postgres.database.reader import Reader
from celery_postgres.database.session import Session
from celery_postgres.readmodel import Count, CursorError, Page, ReadModel, State, TaskFilter, Unavailable, observing
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.proxy import Proxy
from environment.testkit.tables import run
from environment.waiting import wait_until

TENANT = "00000000-0000-0000-0000-00000000000a"
LATER = {"eta": "2099-01-01T00:00:00+00:00"}
#: A result's row; times are in UTC, without a zone.
RESULT = (
    "INSERT INTO celery_taskmeta (id, task_id, status, date_done, name, queue, retries, traceback)"
    " SELECT nextval('task_id_sequence'), 'ended-' || n, CASE WHEN n %% 10 = 0 THEN 'FAILURE' ELSE 'SUCCESS' END,"
    " timezone('UTC', now()) - n * interval '1 second', 'mine.ended', 'q', 0,"
    ' CASE WHEN n %% 10 = 0 THEN E\'Traceback (most recent call last):\\n  File "a.py", line 1, in f\\n    f()\\n'
    "mine.Broken: secret\\nValueError: line' END FROM generate_series(1, {count}) AS n"
).replace("%%", "%")


@pytest.fixture
def url(plain_database: Any) -> str:
    return str(plain_database.url)


@pytest.fixture
def client(connect: Callable[..., Client], url: str) -> Client:
    return connect(url)


@pytest.fixture
def app(make_app: Callable[[str], Celery], url: str) -> Celery:
    return make_app(url)


@pytest.fixture
def model(url: str) -> Iterator[ReadModel]:
    model = ReadModel(url)
    yield model
    model.close()


def send(app: Celery, queue: str, count: int = 1, name: str = "mine.task", **options: Any) -> None:
    for number in range(count):
        app.send_task(name, [number], {"who": "x"}, queue=queue, task_id=f"{name}-{number:08}", **options)


def bury(client: Client, queue: str, count: int) -> None:
    inbox = client.consume(queue, prefetch=0)
    for message in inbox.take(count):
        message.reject(requeue=False)
    inbox.close()


# -- queues and workers


def test_a_queue_counts_what_waits_and_names_who_fills_it(model: ReadModel, app: Celery, queue: str) -> None:
    send(app, queue, 3, headers={"tenant_id": TENANT})
    send(app, queue, 1, "mine.other")
    send(app, queue, 2, "mine.later", eta=LATER["eta"])
    detail = model.queue(queue)
    assert detail is not None
    assert (detail.queue.waiting, detail.queue.scheduled, detail.queue.running) == (Count(4), Count(2), Count(0))
    assert detail.queue.oldest_s is not None
    assert [(one.tenant_id, one.waiting) for one in detail.tenants] == [(TENANT, 3), (None, 3)]
    assert [one.name for one in detail.next] == ["mine.task"] * 3 + ["mine.other"]
    assert (model.queue("nowhere"), model.queue("\0")) == (None, None)


def test_internal_queues_come_last(model: ReadModel, client: Client, queue: str) -> None:
    for name in ("a@b.celery.pidbox", "zz", "aa"):
        client.publish("x", name)
    assert [(one.name, one.internal) for one in model.overview().queues] == [
        ("aa", False), ("zz", False), ("a@b.celery.pidbox", True),
    ]  # fmt: skip


def test_counting_stops(model: ReadModel, url: str, client: Client, queue: str) -> None:
    client.publish("x", queue)
    run(url, "INSERT INTO kombu_message (payload, queue_id) SELECT '{}', id FROM kombu_queue, generate_series(1, 1500)")
    (row,) = model.overview().queues
    assert row.waiting == Count(1501)
    assert (str(Count.of(10_001)), str(Count.of(10_000)), bool(Count.of(0))) == ("10,000+", "10,000", False)


def test_a_worker_shows_what_it_has_claimed(model: ReadModel, client: Client, app: Celery, queue: str) -> None:
    send(app, queue, 2)
    inbox = client.consume(queue, prefetch=2)
    taken = inbox.take(2)
    (worker,) = model.workers()
    assert (worker.pid, worker.queues, worker.claimed, worker.lost) == (os.getpid(), (queue,), Count(2), False)
    detail = model.worker(worker.id)
    assert detail is not None
    assert [one.task_id for one in detail.running.rows] == ["mine.task-00000000", "mine.task-00000001"]
    assert model.worker(worker.id + 1) is None
    for message in taken:
        message.ack()


def test_claims_beyond_what_is_read_at_once_are_counted_for_each_worker(
    model: ReadModel, client: Client, app: Celery, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_view_store, "_READ", 2)
    send(app, queue, 3)
    inbox = client.consume(queue, prefetch=3)
    taken = inbox.take(3)
    (worker,) = model.workers()
    (row,) = model.overview().queues
    assert (worker.claimed, row.running) == (Count(3), Count(2, or_more=True))
    assert worker.oldest_claim_at is not None
    for message in taken:
        message.ack()


def test_a_worker_that_is_gone_is_lost(model: ReadModel, url: str, app: Celery, queue: str) -> None:
    send(app, queue)
    run(url, "UPDATE kombu_message SET visible = false, consumer_id = 77, claimed_at = now()")
    (worker,) = model.workers()
    assert (worker.id, worker.hostname, worker.claimed, worker.lost) == (77, None, Count(1), True)


# -- tasks


def test_tasks_are_listed_by_state(model: ReadModel, url: str, client: Client, app: Celery, queue: str) -> None:
    send(app, queue, 2, "mine.dead")
    bury(client, queue, 2)
    send(app, queue, 1, "mine.waiting")
    send(app, queue, 1, "mine.scheduled", eta=LATER["eta"])
    run(url, RESULT.format(count=20))
    found = {state: [row.name for row in model.tasks(TaskFilter(state=state)).rows] for state in State}
    assert found == {
        State.WAITING: ["mine.waiting"],
        State.SCHEDULED: ["mine.scheduled"],
        State.RUNNING: [],
        State.RETRYING: [],
        State.SUCCEEDED: ["mine.ended"] * 18,
        State.FAILED: ["mine.ended"] * 2,
        State.REVOKED: [],
        State.DEAD: ["mine.dead"] * 2,
        State.LOST: [],
    }
    every = model.tasks()
    assert len(every.rows) == 24
    changed = [row.changed_at for row in every.rows if row.changed_at is not None]
    assert changed == sorted(changed, reverse=True)
    assert {row.error for row in model.tasks(TaskFilter(state=State.FAILED)).rows} == {"Broken"}


def test_a_fair_queue_shows_the_newest_of_what_waits(
    model: ReadModel, client: Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fair = Queue(queue, queue_arguments={"x-fair": True})
    for number in range(6):
        client.publish([[number], {}, {}], fair, headers={"flow_key": "a", "id": f"{number}", "task": "mine.fair"})
    client.publish([[], {}, {}], fair, headers={"flow_key": "a", "id": "later", "task": "mine.later", **LATER})
    monkeypatch.setattr("celery_postgres.database.task_view_store.SCANNED", 4)
    rows = model.tasks(TaskFilter(queue=queue, state=State.WAITING)).rows
    assert [row.task_id for row in rows] == ["5", "4", "3", "2"]  # of a fair queue the last four
    detail = model.queue(queue)
    assert detail is not None
    assert (detail.queue.waiting, detail.queue.scheduled) == (Count(6), Count(1))
    assert [row.task_id for row in detail.next] == ["0", "1", "2", "3", "4", "5"]


def test_scheduled_tasks_of_the_application_are_found_behind_many_queues_of_replies(
    model: ReadModel, url: str, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_postgres.database.task_view_store._QUEUES", 5)
    run(url, "INSERT INTO kombu_queue (name, auto_delete) SELECT 'reply-' || n, true FROM generate_series(1, 20) AS n")
    send(app, "mine", 1, "mine.later", eta=LATER["eta"])
    assert [row.name for row in model.tasks(TaskFilter(state=State.SCHEDULED)).rows] == ["mine.later"]


def test_pages_follow_one_another_without_gap_or_repetition(
    model: ReadModel, url: str, client: Client, app: Celery, queue: str
) -> None:
    send(app, queue, 7, "mine.dead")
    bury(client, queue, 7)
    send(app, queue, 9, "mine.waiting")
    send(app, queue, 8, "mine.later", eta=LATER["eta"])
    run(url, RESULT.format(count=21))
    for state, count in ((None, 45), (State.SCHEDULED, 8), (State.WAITING, 9), (State.DEAD, 7), (State.SUCCEEDED, 19)):
        ids, cursor = [], None
        while True:
            page = model.tasks(TaskFilter(state=state), cursor, limit=4)
            ids += [row.task_id for row in page.rows]
            cursor = page.next
            if cursor is None:
                break
        assert (len(ids), len(set(ids))) == (count, count), state


def test_filters_by_name_queue_tenant_and_time(model: ReadModel, url: str, app: Celery, queue: str) -> None:
    send(app, queue, 3, "mine.one", headers={"tenant_id": TENANT})
    send(app, "another", 3, "mine.two")
    send(app, queue, 1, "mine.later", eta=LATER["eta"], headers={"tenant_id": TENANT})
    run(url, RESULT.format(count=5))

    def names(**conditions: Any) -> set[str | None]:
        return {row.name for row in model.tasks(TaskFilter(**conditions)).rows}

    assert names(task="two") == {"mine.two"}
    assert names(queue="another") == {"mine.two"}
    assert names(queue=queue, task="one") == {"mine.one"}
    assert names(tenant=TENANT) == {"mine.one", "mine.later"}
    assert names(tenant=TENANT, state=State.SCHEDULED, queue=queue) == {"mine.later"}
    assert names(task="nothing") == set()
    assert names(queue="q") == {"mine.ended"}
    (row,) = model.tasks(TaskFilter(task="later")).rows
    assert row.published_at is not None
    assert names(until=row.published_at, state=State.WAITING) == {"mine.one", "mine.two"}
    assert names(since=row.published_at) == {"mine.later"}


@pytest.mark.parametrize("tenant", [None, "00000000-0000-0000-0000-00000000000a"])
def test_what_did_not_succeed_is_found_among_all_that_did(
    model: ReadModel, url: str, monkeypatch: pytest.MonkeyPatch, tenant: str | None
) -> None:
    run(
        url,
        RESULT.format(count=120),
        "UPDATE celery_taskmeta SET tenant_id = '00000000-0000-0000-0000-00000000000a'",
        "UPDATE celery_taskmeta SET status = (ARRAY['REVOKED', 'FAILURE', 'REJECTED', 'RETRY', 'IGNORED', 'FAILURE'])"
        "[substr(task_id, 7)::integer / 10 % 6 + 1], queue = 'other' WHERE status = 'FAILURE'",
        "UPDATE celery_taskmeta SET queue = 'this' WHERE task_id IN ('ended-60', 'ended-120')",
    )
    monkeypatch.setattr(task_view_store, "SCANNED", 3)
    monkeypatch.setattr(task_view_store, "SCANNED_OF_TENANT", 2)

    def listed(state: State, queue: str | None = None) -> list[str]:
        found, cursor = list[str](), None
        while True:
            page = model.tasks(TaskFilter(state=state, tenant=tenant, queue=queue), cursor, limit=2)
            found += [str(row.task_id) for row in page.rows]
            cursor = page.next
            if cursor is None:
                return found

    assert listed(State.FAILED) == ["ended-10", "ended-50", "ended-70", "ended-110"]
    assert listed(State.REVOKED) == ["ended-20", "ended-40", "ended-60", "ended-80", "ended-100", "ended-120"]
    assert listed(State.RETRYING) == ["ended-30", "ended-90"]
    assert listed(State.REVOKED, "this") == ["ended-60", "ended-120"]


def test_a_search_says_how_far_it_came(
    model: ReadModel, url: str, app: Celery, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(url, RESULT.format(count=30))
    monkeypatch.setattr("celery_postgres.database.task_view_store.SCANNED", 10)
    monkeypatch.setattr("celery_postgres.readmodel.pages.SEARCH_S", -1.0)
    page = model.tasks(TaskFilter(state=State.SUCCEEDED, task="nothing"))
    assert (page.rows, page.next is None, page.searched_until is None) == ((), False, False)
    assert model.tasks(TaskFilter(state=State.SUCCEEDED, task="nothing"), search_s=60.0) == Page(())
    monkeypatch.setattr("celery_postgres.readmodel.pages.SEARCH_S", 60.0)
    page = model.tasks(TaskFilter(state=State.FAILED))
    assert [row.task_id for row in page.rows] == ["ended-10", "ended-20", "ended-30"]
    assert page.next is None


@pytest.mark.parametrize(
    "cursor", ["", "x", "W10", "WzEsMl0", "W1tdXQ", "W1tbXV1d", "\u00e9", "W1siYSIsMV1d", "W1sxXV0", "A" * 5000]
)
def test_a_cursor_of_nobody_is_refused(model: ReadModel, cursor: str) -> None:
    with pytest.raises(CursorError, match="start from the first page"):
        model.tasks(TaskFilter(state=State.DEAD), cursor)


def test_one_task_from_its_message_to_its_dead_letter(
    model: ReadModel, client: Client, app: Celery, queue: str
) -> None:
    send(app, queue)
    (task_id,) = model.find("mine.tas")
    task = model.task(task_id)
    assert task is not None
    assert (task.row.state, task.row.name, task.attempts) == (State.WAITING, "mine.task", ())
    assert task.origin.arguments == ("0: int", "who: str")
    assert (task.origin.root_id, task.origin.parent_id) == (task_id, None)
    bury(client, queue, 1)
    task = model.task(task_id)
    assert task is not None
    assert (task.row.state, task.row.error, task.row.name) == (State.DEAD, "rejected", "mine.task")
    assert [one.state for one in task.attempts] == [State.DEAD]
    assert (model.task("nothing"), model.task("\0"), model.find("short"), model.find("\0" * 9)) == (None, None, [], [])
    assert model.task(task_id, tenant=TENANT) is None


def test_a_failure_shows_its_type_in_a_list_and_its_traceback_alone(model: ReadModel, url: str) -> None:
    run(url, RESULT.format(count=10))
    task = model.task("ended-10")
    assert task is not None
    assert (task.row.state, task.row.error, task.celery_state) == (State.FAILED, "Broken", "FAILURE")
    assert task.traceback is not None
    assert "secret" in task.traceback
    assert "secret" not in repr(task.row)


# -- dead letters


def test_dead_letters_are_grouped_by_reason_and_task(
    model: ReadModel, url: str, client: Client, app: Celery, queue: str
) -> None:
    send(app, queue, 3, "mine.one", headers={"tenant_id": TENANT})
    send(app, queue, 2, "mine.two")
    client.publish("not a task", queue)
    bury(client, queue, 6)
    dead = model.dead_letters()
    assert dead.total.count == Count(6)
    assert [(one.reason, one.task, one.count, one.tenants) for one in dead.groups] == [
        ("rejected", "mine.one", 3, 1), ("rejected", "mine.two", 2, 0), ("rejected", None, 1, 0),
    ]  # fmt: skip
    assert [one.count for one in model.dead_letters(tenant=TENANT).groups] == [3]
    for one in dead.groups:
        which = TaskFilter(state=State.DEAD, reason=one.reason, whole_task=one.task or "")
        rows = model.tasks(which).rows
        assert ({row.name for row in rows}, len(rows)) == ({one.task}, one.count)


@pytest.mark.parametrize("name", ["tâche.échec", "back\\slash", "100%_sure", "🐘.task"])
def test_a_name_with_escapes_in_json_is_found_as_it_is_written(
    model: ReadModel, url: str, client: Client, app: Celery, queue: str, name: str
) -> None:
    for number in range(2):
        app.send_task(name, [number], queue=queue, task_id=f"{number}-of-the-name")
    send(app, queue, 1, "100 unsure")
    assert [row.name for row in model.tasks(TaskFilter(task=name)).rows] == [name] * 2
    assert [row.name for row in model.tasks(TaskFilter(task=name[1:5], queue=queue)).rows] == [name] * 2
    bury(client, queue, 2)
    (group,) = model.dead_letters().groups
    assert (group.task, group.count) == (name, 2)
    for which in (TaskFilter(state=State.DEAD, whole_task=name), TaskFilter(state=State.DEAD, task=name)):
        assert [row.name for row in model.tasks(which).rows] == [name] * 2
    with closing(operations.connect(url)) as broker:
        assert len(broker.dead_letters(operations.DeadLetterFilter(task=name))) == 2


def test_a_search_in_a_queue_goes_on_beyond_what_one_statement_reads(
    model: ReadModel, app: Celery, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_view_store, "SCANNED", 3)
    send(app, queue, 1, "mine.rare")
    send(app, queue, 10)
    assert [row.name for row in model.tasks(TaskFilter(queue=queue, task="rare")).rows] == ["mine.rare"]
    assert len(model.tasks(TaskFilter(queue=queue)).rows) == 11


# -- what it costs others


def test_it_can_only_read(url: str) -> None:
    reader = Reader(url)
    with pytest.raises(Unavailable, match="read-only transaction"):
        reader.run("block_task", task="x")
    reader.close()


def test_a_statement_that_takes_long_is_ended(
    model: ReadModel, url: str, queue: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.publish("x", queue)
    fresh_s = observing.FRESH_S
    monkeypatch.setattr(observing, "FRESH_S", 60.0)  # however late the second look comes
    with psycopg2.connect(url) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE kombu_message")
        with pytest.raises(Unavailable, match="statement timeout") as first:
            model.overview()
        with pytest.raises(Unavailable) as second:
            model.overview()
        assert second.value is first.value  # without another 2 s
        holder.rollback()
    monkeypatch.setattr(observing, "FRESH_S", fresh_s)
    wait_until(lambda: _names(model) == [queue], DEADLINE_S, "the failure to be forgotten")


def test_a_server_that_stands_still_is_given_up(
    plain_database: Any, proxy: Proxy, client: Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.publish("x", queue)
    monkeypatch.setattr(watchdog, "_process", PerProcess(watchdog._State, watchdog._State.leave_to_parent))
    monkeypatch.setattr(watchdog, "GRACE_S", -0.5)
    model = ReadModel(proxy.url(plain_database.tcp_url))
    assert model.queue(queue) is not None
    proxy.stall()
    ended = threading.Event()

    def look() -> None:
        with suppress(Unavailable):
            model.queue(queue)
        ended.set()

    threading.Thread(target=look, daemon=True).start()
    assert ended.wait(DEADLINE_S), "a look waits for a server that never answers"
    model.close()


def _names(model: ReadModel) -> list[str]:
    try:
        return [one.name for one in model.overview().queues]
    except Unavailable:
        return []


def test_who_looks_at_the_same_moment_shares_one_reading(model: ReadModel, client: Client, queue: str) -> None:
    client.publish("x", queue)
    assert model.overview() is model.overview()


# -- problems


def test_problems_are_found_in_the_tables(model: ReadModel, url: str, client: Client, app: Celery, queue: str) -> None:
    send(app, queue, 2, "mine.dead")
    bury(client, queue, 2)
    send(app, queue)
    run(url, "UPDATE kombu_message SET enqueued_at = now() - interval '10 minutes'")
    with closing(Session(url)) as session:
        MinuteStore(session).write([MinuteRow(int(time.time() // 60), 7, queue, "mine.ended", done=180, failed=20)])
    found = {one.rule: one for one in model.problems()}
    assert found.keys() == {"unconsumed", "dead", "failing"}
    assert found["unconsumed"].sentence == f"Queue {queue} has no worker: 1 is waiting, the oldest for 10 min"
    assert found["dead"].sentence == "2 new dead letters in 15 minutes, 2 of them mine.dead: rejected"
    assert found["failing"].sentence == "mine.ended fails: 20 of the last 200 runs in 15 minutes"


def test_the_schedule_of_the_application_tells_what_is_late(url: str, app: Celery) -> None:
    run(url, "INSERT INTO celery_beat_entry (name, last_run_at) VALUES ('known', now() - interval '10 minutes')")
    run(url, "INSERT INTO celery_beat_entry (name, last_run_at) VALUES ('gone', now() - interval '10 minutes')")
    app.conf.beat_schedule = {"known": {"task": "mine.report", "schedule": 60.0}, "broken": 3}
    model = operations.read_model(app)
    gone, known = model.schedules()
    assert (gone.entry, gone.overdue_s, gone.task) == ("gone", None, None)
    assert (known.task, known.overdue_s is not None and 530 < known.overdue_s < 600) == ("mine.report", True)
    assert [one.rule for one in model.problems()] == ["overdue"]
    model.close()
