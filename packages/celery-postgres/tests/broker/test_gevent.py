"""The gevent pool: our threads are greenlets there, and psycopg2 holds up all of them for the length of a statement."""

from __future__ import annotations

import importlib.util
import signal

import pytest
from celery.result import ResultSet

from environment.testkit.probe import DEADLINE_S, Probe
from environment.testkit.tables import rows_of
from environment.waiting import wait_until

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not in the locks; ./dev test --newest has it"
)


@pytest.mark.parametrize("late", [False, True])
def test_tasks_run_beside_each_other_and_answer(probe: Probe, late: bool) -> None:
    worker = probe.start(pool="gevent", concurrency=10, conf={"task_acks_late": late})
    waiting = [probe.send("run", f"wait-{number}", "gate") for number in range(5)]
    probe.wait_for("start", "wait-*", 5)
    assert probe.send("add", 1, 2).get(timeout=DEADLINE_S) == 3
    assert probe.inspect(worker, "ping") == {"ok": "pong"}
    probe.open("gate")
    assert [one.get(timeout=DEADLINE_S) for one in waiting] == [f"wait-{number}" for number in range(5)]
    probe.send("run", "later", countdown=1).get(timeout=DEADLINE_S)
    wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "the acks")


def test_term_drains(probe: Probe) -> None:
    worker = probe.start(pool="gevent", concurrency=4, conf={"task_acks_late": True})
    results = [probe.send("run", f"drain-{number}", "gate") for number in range(4)]
    probe.wait_for("start", "drain-*", 4)
    worker.process.send_signal(signal.SIGTERM)
    probe.open("gate")
    assert worker.process.wait(DEADLINE_S) == 0
    assert [one.get(timeout=DEADLINE_S) for one in results] == [f"drain-{number}" for number in range(4)]
    assert rows_of(probe.url, "celery") == 0


def test_a_killed_task_is_no_success() -> None:
    """A cold shutdown cancels a task by `terminate_job`. Its message was acknowledged, and the task lost."""
    import gevent
    from celery.concurrency.gevent import TaskPool

    from celery_postgres.compat import green_kills

    green_kills.install()
    pool = TaskPool(2)
    pool.on_start()
    started: list[int] = []
    reported: list[object] = []
    for target, args in ((gevent.sleep, (600,)), (lambda: (0, "result", 0.1), ())):
        pool.apply_async(target, args, accept_callback=lambda pid, _: started.append(pid), callback=reported.append)
    with gevent.Timeout(DEADLINE_S):
        while len(started) < 2 or not reported:
            gevent.sleep(0)
        pool.terminate_job(started[0])
        pool.on_stop()
    assert reported == [(0, "result", 0.1)]


def test_acks_return_their_credit_at_once(probe: Probe) -> None:
    """Each would else wait for Celery's poll, 2 s, and all of them for longer than the deadline."""
    conf = {"task_acks_late": True, "worker_prefetch_multiplier": 1}
    probe.start(pool="gevent", concurrency=1, conf=conf)
    results = [probe.send("add", number, 1) for number in range(int(DEADLINE_S))]
    assert ResultSet(results).get(timeout=DEADLINE_S)[-1] == int(DEADLINE_S)
