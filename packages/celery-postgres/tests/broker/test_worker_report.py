"""What workers report with their heartbeat, in every pool; and workers that an operator drains."""

from __future__ import annotations

import time
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from celery_postgres import operations
from celery_postgres.consumer import worker_report
from celery_postgres.database.consumer_store import Report
from celery_postgres.readmodel import LOST_FOR_GOOD, ReadModel, State, TaskFilter, Worker
from environment.testkit.probe import DEADLINE_S, POOLS
from environment.waiting import wait_until


@pytest.fixture
def model(probe: Any) -> Any:
    made = ReadModel(probe.url)
    yield made
    made.close()


def reported(model: ReadModel, name: str) -> Worker | None:
    return next((one for one in model.workers() if one.name == name), None)


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_reports_what_it_is_and_runs_until_it_is_drained(probe: Any, model: ReadModel, pool: str) -> None:
    gate = "gate"
    worker = probe.start(pool=pool, conf={"broker_transport_options": {"app_version": "2026.11.28"}})
    probe.send("run_quiet", "first", gate)
    probe.wait_for("start", "first")

    def runs() -> bool:
        one = reported(model, worker.name)
        return one is not None and one.busy == 1 and [task.task for task in one.running] == ["probe.run_quiet"]

    wait_until(runs, DEADLINE_S, "the report of the task")
    found = reported(model, worker.name)
    assert found is not None
    assert (found.pool, found.slots, found.app_version) == (pool, POOLS[pool], "2026.11.28")
    assert (found.lost, found.draining) == (False, False)
    with operations.connect(probe.url) as broker:
        assert broker.drain(found.id)
        assert not broker.drain(found.id + 1)
    wait_until(lambda: "An operator drains this worker" in worker.log_text(), DEADLINE_S, "it to be told")
    wait_until(lambda: (one := reported(model, worker.name)) is not None and one.draining, DEADLINE_S, "it to show")
    probe.send("run_quiet", "second", gate)
    probe.open(gate)
    assert worker.process.wait(DEADLINE_S) == 0
    assert [line["tag"] for line in probe.notes("end")] == ["first"]
    wait_until(lambda: reported(model, worker.name) is None, DEADLINE_S, "its row to go")


def test_a_report_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids come from producers, and the main thread changes the set of tasks while this thread reads it."""
    hostile = [SimpleNamespace(id=f"a\0{'x' * 9_000}\ud800", name="t\n", time_start=time.time() - n) for n in range(99)]
    odd = SimpleNamespace(id=None, name=None, time_start=None)
    state = SimpleNamespace(
        active_requests={*map(_Hashed, hostile), _Hashed(odd)}, should_stop=None, should_terminate=None
    )
    monkeypatch.setattr(worker_report, "worker_state", lambda: state)
    monkeypatch.setattr(worker_report._process, "value", worker_report._Process())
    assert worker_report.report() == Report()
    worker_report.note_worker(SimpleNamespace(hostname="w@h\0", pool=None))
    found = worker_report.report()
    assert (found.name, found.busy, found.pool, found.slots) == ("w@h?", 99, None, None)
    assert found.running is not None
    assert len(found.running) <= worker_report.MOST_CHARACTERS
    assert "\\u0000" not in found.running
    assert "\\ud800" not in found.running
    worker_report.note_worker(SimpleNamespace())
    assert worker_report.report() == found, "what was reported before"


class _Hashed:
    """A request that a set can hold."""

    def __init__(self, request: Any) -> None:
        self.id, self.name, self.time_start = request.id, request.name, request.time_start


def test_a_set_that_changes_meanwhile_is_read_again() -> None:
    class Changing:
        left = 3

        def __iter__(self) -> Any:
            self.left -= 1
            if self.left:
                raise RuntimeError("Set changed size during iteration")
            return iter([SimpleNamespace(id="a", name="t", time_start=time.time())])

    assert len(worker_report._running(Changing())) == 1


def test_a_claimed_task_that_a_worker_reports_is_listed_once(probe: Any, model: ReadModel) -> None:
    worker = probe.start(pool="threads", conf={"task_acks_late": True})
    task = probe.send("run", "late", "gate").id
    probe.wait_for_all("start", ["late"])
    wait_until(
        lambda: (one := reported(model, worker.name)) is not None and [each.task_id for each in one.running] == [task],
        DEADLINE_S,
        "the report of the task",
    )
    assert [row.task_id for row in model.tasks(TaskFilter(state=State.RUNNING)).rows] == [task]


def test_what_a_killed_worker_had_acknowledged_early_is_lost_and_says_so(probe: Any, model: ReadModel) -> None:
    """Celery's default: the message is gone before the task runs, so only the worker's own report knows what it ran."""
    conf = {"task_track_started": True, "task_ignore_result": False, "task_acks_late": False}
    worker = probe.start(pool="threads", conf=conf)
    ids = [probe.send("run", tag, "gate").id for tag in ("kept", "hidden")]
    probe.wait_for_all("start", ["kept", "hidden"])
    wait_until(
        lambda: (one := reported(model, worker.name)) is not None and {task.task_id for task in one.running} == {*ids},
        DEADLINE_S,
        "the report of both tasks",
    )
    number = reported(model, worker.name)
    assert number is not None

    def running(**which: Any) -> set[str | None]:
        return {row.task_id for row in model.tasks(TaskFilter(state=State.RUNNING, **which)).rows}

    wait_until(lambda: running() == {*ids}, DEADLINE_S, "both to be among what runs")
    assert running() == running(task="probe.run") == running(consumer=number.id) == {*ids}
    assert running(task="other") == running(consumer=number.id + 1) == running(queue="celery") == set()
    worker.process.kill()
    worker.process.wait(DEADLINE_S)
    # Its result was stored, and the worker died before it reported that it runs nothing: this one has ended.
    execute(probe.url, "UPDATE celery_taskmeta SET status = 'SUCCESS' WHERE task_id = %s", [ids[1]])
    probe.start(pool="threads", conf=conf)

    def told() -> Worker | None:
        return next((one for one in model.workers() if one.name == worker.name and one.lost_at is not None), None)

    wait_until(lambda: told() is not None, DEADLINE_S, "the lost worker")
    (row,) = model.tasks(TaskFilter(state=State.LOST, consumer=number.id)).rows
    assert (row.task_id, row.name, row.worker, row.error) == (ids[0], "probe.run", worker.name, LOST_FOR_GOOD)
    assert [one.task_id for one in model.tasks().rows if one.task_id] == ids
    assert not model.tasks(TaskFilter(state=State.RUNNING)).rows
    found = model.task(ids[0])
    assert found is not None
    assert (found.row.state, found.status.phase) == (State.LOST, "lost")
    assert worker.name in str(found.status.reason)
    assert [one.state for one in found.attempts] == [State.LOST]
    ended = model.task(ids[1])
    assert ended is not None
    assert (ended.row.state, len(ended.attempts)) == (State.SUCCEEDED, 1)
    lost = told()
    assert lost is not None
    assert [one.task_id for one in lost.lost_tasks] == [ids[0]]
    problem = next(one for one in model.problems() if one.rule == "lost")
    assert "and 1 task with it" in problem.sentence
    assert "does not run again: probe.run." in problem.detail
    probe.open("gate")


def execute(url: str, statement: str, values: list[Any]) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)


def test_a_task_that_no_worker_knows_says_so_wherever_it_is_shown(probe: Any, model: ReadModel) -> None:
    """Celery stores a failure of it, and rejects the message: one task, once in the list, and with its dead letter."""
    probe.start(pool="solo")
    unknown = probe.app.send_task("no.such.task").id
    rejected = probe.send("reject", "tag").id
    wait_until(lambda: len(model.tasks(TaskFilter(state=State.DEAD)).rows) == 2, DEADLINE_S, "both letters")

    def stored(task_id: str) -> str | None:
        one = model.task(task_id)
        return None if one is None else one.celery_state

    wait_until(lambda: stored(unknown) == "FAILURE", DEADLINE_S, "the result of the unknown one")
    wait_until(
        lambda: "no.such.task" in [one.task for one in model.failures()],  # of the rejected one from Celery 5.7 on, too
        DEADLINE_S,
        "the attempt",
    )
    found = model.task(unknown)
    assert found is not None
    assert (found.row.name, found.row.state, found.row.error) == ("no.such.task", State.DEAD, "rejected")
    assert (found.status.phase, found.status.reason) == ("finished", "rejected")
    assert found.status.dead_letter == found.row.dead_letter
    assert found.status.queue == found.row.queue
    assert ("no.such.task", "NotRegistered") in [(one.task, one.error) for one in model.failures()]
    assert (State.FAILED, "NotRegistered") in [(one.state, one.error) for one in found.attempts]
    assert sorted(str(one.task_id) for one in model.tasks().rows if one.task_id) == sorted([unknown, rejected])
    assert model.dead_letters().unregistered == {"no.such.task"}
