"""How long a unique task holds its key, with workers that run, fail, retry and are killed."""

from __future__ import annotations

from typing import Any

import pytest

from celery_postgres import Flow, operations
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, Probe
from environment.testkit.tables import dead_letters, rows_of
from environment.waiting import wait_until

LATE = {"task_acks_late": True}


def _task(*arguments: Any) -> None:
    """What a worker runs has the same name."""


def send(probe: Probe, name: str, *args: Any, until: str, **options: Any) -> Any:
    """Publish a task of the probe with the key `k`, which all its tasks share."""
    name = f"probe.{name}"
    if name not in probe.app.tasks:
        flow = Flow(unique="k", until=until)
        probe.app.task(name=name, flow=flow, acks_late=True, shared=False)(_task)
    return probe.app.tasks[name].apply_async(args, **options)


@pytest.mark.parametrize("until", ["started", "done"])
def test_a_key_is_free_when_the_task_has_started_or_is_done(probe: Probe, until: str) -> None:
    first = send(probe, "run_late", "a", "gate", until=until)
    assert send(probe, "run_late", "b", until=until).id == first.id
    probe.start(pool="prefork", concurrency=1)
    probe.wait_for("start", "a")
    second = send(probe, "run_late", "c", until=until)
    assert (second.id == first.id) is (until == "done")
    (probe.folder / "gates" / "gate").touch()
    assert first.get(DEADLINE_S) == "a"
    wait_until(lambda: rows_of(probe.url) == 0, DEADLINE_S, "the acks")
    third = send(probe, "run_late", "d", until=until)
    assert third.get(DEADLINE_S) == "d"
    assert {line["tag"] for line in probe.notes("start")} == {"a", "d", *(["c"] if until == "started" else [])}


def test_a_killed_task_holds_its_key_until_it_is_done(probe: Probe) -> None:
    first = send(probe, "run_late", "a", "gate", until="done")
    killed = probe.start(pool="solo", env={"PROBE_LEASE_S": "2"})
    probe.wait_for("start", "a")
    killed.kill()
    assert send(probe, "run_late", "b", until="done").id == first.id
    probe.start(pool="solo", env={"PROBE_LEASE_S": "2"})
    probe.wait_for("start", "a", 2)
    assert send(probe, "run_late", "c", until="done").id == first.id
    (probe.folder / "gates" / "gate").touch()
    assert first.get(DEADLINE_S) == "a"
    wait_until(lambda: rows_of(probe.url) == 0, DEADLINE_S, "the ack")
    assert send(probe, "run_late", "d", until="done").get(DEADLINE_S) == "d"


@pytest.mark.parametrize("until", ["started", "done"])
def test_a_retry_is_never_a_duplicate_of_its_own_task_or_of_another(probe: Probe, until: str) -> None:
    probe.start(pool="solo", conf=LATE)
    first = send(probe, "again", "a", until=until)
    assert first.get(DEADLINE_S) == 2
    assert [line["retries"] for line in probe.notes("start", "a")] == [0, 1, 2]


def test_a_retry_that_waits_holds_the_key_of_a_task_until_it_is_done(probe: Probe) -> None:
    probe.start(pool="solo", conf=LATE)
    first = send(probe, "again", "a", 3600, until="done")
    probe.wait_for("start", "a")
    waits = "SELECT count(*) FROM kombu_message WHERE visible AND unique_until > 0"
    wait_until(lambda: rows(probe.url, waits) == [(1,)], DEADLINE_S, "the retry")
    wait_until(lambda: rows_of(probe.url) == 1, DEADLINE_S, "the ack")
    assert send(probe, "again", "b", until="done").id == first.id


def test_a_dead_letter_frees_the_key_and_a_requeued_one_holds_none(probe: Probe) -> None:
    worker = probe.start(pool="solo")
    first = send(probe, "reject", "a", until="done")
    wait_until(lambda: dead_letters(probe.url) == 1, DEADLINE_S, "the dead letter")
    worker.kill()
    second = send(probe, "reject", "b", until="done")
    assert second.id != first.id
    with operations.of(probe.app) as ops:
        assert ops.requeue([one.id for one in ops.dead_letters()]).count == 1
    assert rows_of(probe.url) == 2
