"""What Celery 5.7 brought, on this broker and this result backend."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import celery
import psycopg2
import pytest
from celery.exceptions import WorkerLostError

from environment.testkit.beats import Beat, beating
from environment.testkit.canvas import answer, drained
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, Probe, every_slot_works, unique
from environment.testkit.tables import backends, dead_letters, rows_of, scalar
from environment.waiting import wait_until

pytestmark = pytest.mark.skipif(celery.VERSION < (5, 7), reason="the setting is new in Celery 5.7")


# -- task_retry_on_worker_lost


def annotated(**options: Any) -> dict[str, Any]:
    """Settings that retry `probe.die` at once when its process is lost."""
    options = {"retry_on_worker_lost": True, "default_retry_delay": 0, "reject_on_worker_lost": False, **options}
    return {"task_annotations": {"probe.die": options}}


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("rejects", [True, False])
def test_a_task_whose_child_is_killed_is_retried_as_a_new_message(probe: Probe, late: bool, rejects: bool) -> None:
    probe.start(pool="prefork", conf=annotated(acks_late=late, reject_on_worker_lost=rejects))
    tag = unique("die")
    sent = probe.send("die", tag, 2)
    assert answer(sent) == tag
    starts = probe.notes("start", tag)
    assert len(starts) == 3
    # Not the old message again: a new one, without failures.
    assert not any(one["redelivered"] for one in starts)
    drained(probe)
    assert dead_letters(probe.url) == 0


def test_retries_of_lost_tasks_end_as_a_failure_and_not_as_a_dead_letter(probe: Probe) -> None:
    probe.start(pool="prefork", conf=annotated(acks_late=True, reject_on_worker_lost=True, max_retries=2))
    tag = unique("die")
    sent = probe.send("die", tag, 99)
    with pytest.raises(WorkerLostError):
        answer(sent)
    assert len(probe.notes("start", tag)) == 3
    drained(probe)
    assert dead_letters(probe.url) == 0


def test_a_killed_worker_is_no_lost_child_and_its_late_task_is_delivered_again(probe: Probe) -> None:
    conf = {"task_annotations": {"probe.run_late": {"retry_on_worker_lost": True}}}
    worker = probe.start(pool="prefork", conf=conf)
    tag, gate = unique("tag"), unique("gate")
    sent = probe.send("run_late", tag, gate)
    (start,) = probe.wait_for("start", tag)
    os.kill(worker.pid, signal.SIGKILL)
    os.kill(start["pid"], signal.SIGKILL)
    probe.start(pool="prefork", conf=conf)
    _, second = probe.wait_for("start", tag, count=2)
    assert second["redelivered"]
    assert scalar(probe.url, "SELECT failures FROM kombu_message WHERE task_id = :id", id=sent.id) == 1
    probe.open(gate)
    assert answer(sent) == tag


# -- task_acks_on_failure, task_acks_on_timeout


def test_a_failure_that_is_not_acknowledged_becomes_a_dead_letter(probe: Probe) -> None:
    conf = {"task_annotations": {"probe.fail": {"acks_on_failure": False}}}
    probe.start(conf=conf)
    sent = probe.send("fail", unique("tag"))
    with pytest.raises(ValueError, match="tag"):
        answer(sent)
    drained(probe)
    assert dead_letters(probe.url, sent.id) == 1


def test_a_timeout_that_is_not_acknowledged_counts_as_a_failed_delivery(probe: Probe) -> None:
    options = {"acks_late": True, "acks_on_timeout": False, "time_limit": 1}
    conf = {"task_annotations": {"probe.spin": options}, "broker_transport_options": {"max_failures": 2}}
    probe.start(pool="prefork", conf=conf)
    tag = unique("spin")
    sent = probe.send("spin", tag)
    probe.wait_for("start", tag, count=2)
    wait_until(lambda: dead_letters(probe.url, sent.id) == 1, DEADLINE_S, "the dead letter")
    assert dead_letters(probe.url, "failed 2 times") == 1
    assert len(probe.notes("start", tag)) == 2


# -- worker_concurrency = "auto", worker_pool_start_method = "spawn"


@pytest.mark.parametrize("name", ["solo", "threads", "prefork", "gevent"])
def test_a_worker_of_as_many_slots_as_processors(probe: Probe, name: str) -> None:
    if name == "gevent":
        pytest.importorskip("gevent", reason="gevent is in the environment of --newest alone")
    worker = probe.start(pool=name, concurrency="auto")  # type: ignore[arg-type]
    stats = probe.inspect(worker, "stats")
    processors = len(os.sched_getaffinity(0))
    # An integer everywhere: the prefetch limit is a multiple of it, and a quota of the container can only lower it.
    assert stats["prefetch_count"] % 4 == 0
    assert 1 <= stats["prefetch_count"] // 4 <= processors
    assert stats["pool"]["max-concurrency"] in (1, stats["prefetch_count"] // 4)
    before = len(backends(probe.url, worker.application_name))
    tags = [unique("slot") for _ in range(stats["prefetch_count"])]
    for tag in tags:
        probe.send("run_quiet", tag)
    probe.wait_for_all("end", tags)
    # A worker needs no connection for each slot.
    assert len(backends(probe.url, worker.application_name)) <= before + 1


def test_children_that_are_spawned_and_not_forked(probe: Probe) -> None:
    probe.start(pool="prefork", conf={"worker_pool_start_method": "spawn"})
    every_slot_works(probe, "prefork")
    tag = unique("die")
    assert answer(probe.send("die", tag)) == tag
    assert len(probe.notes("start", tag)) == 2
    tag = unique("late")
    sent = probe.send("run_late", tag)
    assert answer(sent) == tag
    drained(probe)


# -- beat's remote control


@pytest.fixture
def start_beat(probe: Probe, tmp_path: Path) -> Iterator[Callable[..., Beat]]:
    """``start_beat(name, **conf)``: a `celery beat` that answers as `name`; its log is `tmp_path / "beat.log"`."""
    with beating(probe.url, tmp_path) as beats:
        yield lambda name, **conf: beats.start("--enable-remote-control", "-n", name, **conf)


def answering(probe: Probe, *names: str, timeout: float = 1.0) -> set[str]:
    """Who answers a ping, within a time."""
    return {name for reply in probe.app.control.ping(destination=list(names), timeout=timeout) for name in reply}


def test_each_of_several_beats_answers_by_its_name(start_beat: Callable[..., Beat], probe: Probe) -> None:
    first, second = start_beat("one@beats"), start_beat("two@beats")
    both = {"one@beats", "two@beats"}
    wait_until(lambda: answering(probe, *both) == both, DEADLINE_S, "the answers of both beats")
    worker = probe.start()

    def everybody() -> set[str]:
        return {name for reply in probe.app.control.ping(timeout=2.0) for name in reply}

    wait_until(lambda: everybody() == {*both, worker.name}, DEADLINE_S, "the answers of all")
    # A command for workers alone: beats do not answer it.
    answer = wait_until(lambda: probe.app.control.inspect(timeout=2.0).stats(), DEADLINE_S, "the worker's answer")
    assert set(answer) == {worker.name}
    first.terminate()
    assert first.wait(DEADLINE_S) == 0
    wait_until(lambda: answering(probe, *both) == {"two@beats"}, DEADLINE_S, "the answer of the second alone")
    second.kill()
    second.wait()
    assert answering(probe, *both) == set()


def test_a_scheduler_that_stands_still_makes_its_beat_silent(
    start_beat: Callable[..., Beat], probe: Probe, tmp_path: Path
) -> None:
    start_beat("slow@beats", beat_remote_control_max_tick_age=2.0)
    wait_until(lambda: rows_of(probe.url, "ticks") > 1, DEADLINE_S, "the first runs")
    assert scalar(probe.url, "SELECT bool_and(payload LIKE '%celery_beat_task%') FROM kombu_message")
    wait_until(lambda: bool(answering(probe, "slow@beats")), DEADLINE_S, "an answer")
    with closing(psycopg2.connect(probe.url)) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE celery_beat_entry")  # each run of an entry waits for it
        wait_until(lambda: not answering(probe, "slow@beats"), DEADLINE_S, "the silence")
        assert "the scheduler has not ticked for" in (tmp_path / "beat.log").read_text()
        holder.rollback()
    wait_until(lambda: bool(answering(probe, "slow@beats")), DEADLINE_S, "the answers again")


def test_the_queue_of_a_killed_beat_is_removed(start_beat: Callable[..., Beat], probe: Probe) -> None:
    beat = start_beat("gone@beats")
    wait_until(lambda: bool(answering(probe, "gone@beats")), DEADLINE_S, "an answer")
    named = "SELECT count(*) FROM kombu_queue WHERE name LIKE 'gone@beats%'"
    assert scalar(probe.url, named) == 1
    beat.kill()
    beat.wait()
    probe.start()  # maintenance runs in every consumer
    wait_until(lambda: scalar(probe.url, named) == 0, 90, "the queue to be removed")


def test_beats_of_one_name_share_one_mailbox_and_one_of_them_answers(
    start_beat: Callable[..., Beat], probe: Probe, tmp_path: Path
) -> None:
    for _ in range(2):
        start_beat("same@beats")
    wait_until(
        lambda: len(rows(probe.url, "SELECT FROM kombu_subscription AS s JOIN kombu_queue AS q ON q.id = s.queue_id"
                         " WHERE q.name LIKE 'same@beats%'")) == 2,
        DEADLINE_S, "both beats",
    )  # fmt: skip
    for _ in range(3):
        asked = partial(probe.app.control.ping, destination=["same@beats"], timeout=1.0)
        assert len(wait_until(asked, DEADLINE_S, "an answer")) == 1
