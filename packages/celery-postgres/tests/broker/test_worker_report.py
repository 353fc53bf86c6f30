"""What workers report with their heartbeat, in every pool; and workers that an operator drains."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from celery_postgres import operations
from celery_postgres.consumer import worker_report
from celery_postgres.database.consumer_store import Report
from celery_postgres.readmodel import ReadModel, Worker
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
    hostile = [SimpleNamespace(id=f"a\0{'x' * 9_000}\ud800", name="t\n", time_start=time.time() - n) for n in range(9)]
    odd = SimpleNamespace(id=None, name=None, time_start=None)
    state = SimpleNamespace(
        active_requests={*map(_Hashed, hostile), _Hashed(odd)}, should_stop=None, should_terminate=None
    )
    monkeypatch.setattr(worker_report, "worker_state", lambda: state)
    monkeypatch.setattr(worker_report._process, "value", worker_report._Process())
    assert worker_report.report() == Report()
    worker_report.note_worker(SimpleNamespace(hostname="w@h\0", pool=None))
    found = worker_report.report()
    assert (found.name, found.busy, found.pool, found.slots) == ("w@h?", 9, None, None)
    assert found.running is not None
    assert len(found.running) < 2_000
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
