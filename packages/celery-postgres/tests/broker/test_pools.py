"""The conformance suite: the same promises in every pool, through real workers of a plain Celery program."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from environment.testkit.awkward_names import AWKWARD
from environment.testkit.probe import DEADLINE_S, POOLS, Probe, unique
from environment.testkit.tables import backends, dead_letters, rows_of, scalar
from environment.waiting import wait_until


def answer(result: Any) -> Any:
    return result.get(timeout=DEADLINE_S, interval=0.02)


def drained(pool: Probe, queue: str = "celery") -> None:
    """Wait until nothing of a queue is left: everything ran and every ack was written."""
    wait_until(lambda: rows_of(pool.url, queue) == 0, DEADLINE_S, f"{queue} to be empty")


# -- run and acknowledge


@pytest.mark.parametrize("task", ["run", "run_late"], ids=["early ack", "late ack"])
def test_a_task_runs_once_and_its_message_goes(pool: Probe, task: str) -> None:
    tag = unique("one")
    assert answer(pool.send(task, tag)) == tag
    assert len(pool.notes("start", tag)) == 1
    drained(pool)


@pytest.mark.parametrize("task", ["run_quiet", "run_late_quiet"], ids=["early ack", "late ack"])
def test_many_tasks_run_once_each(pool: Probe, task: str) -> None:
    name = unique("many")
    tags = [f"{name}-{number}" for number in range(200)]
    for tag in tags:
        pool.send(task, tag)
    counts = pool.wait_for_all("end", tags)
    drained(pool)
    assert {tag: count for tag, count in counts.items() if count != 1} == {}
    assert len(pool.notes("start", f"{name}-*")) == 200


def test_arguments_of_any_kind_arrive(pool: Probe) -> None:
    value = {"ü": ["你好", "🐘", None, 1.5, {"'": '"'}], "nul": "a\x00b", "sql": "'; DROP TABLE kombu_message; --"}
    assert answer(pool.send("echo", value)) == value


def test_a_megabyte_arrives(pool: Probe) -> None:
    assert answer(pool.send("digest", "ü" * (1 << 20)))["length"] == 1 << 20


def test_a_failing_task_is_acknowledged(pool: Probe) -> None:
    tag = unique("fails")
    result = pool.send("fail", tag)
    with pytest.raises(ValueError, match=tag):
        answer(result)
    drained(pool)
    assert len(pool.notes("start", tag)) == 1


def test_a_failing_task_that_is_not_acknowledged_is_kept(pool: Probe) -> None:
    tag = unique("fails")
    result = pool.send("fail_unacknowledged", tag)
    with pytest.raises(ValueError, match=tag):
        answer(result)
    wait_until(lambda: dead_letters(pool.url, result.id) == 1, DEADLINE_S, "the dead letter")
    drained(pool)


def test_ignore_acknowledges(pool: Probe) -> None:
    tag = unique("ignored")
    pool.send("ignore", tag)
    pool.wait_for("start", tag)
    drained(pool)


def test_reject_keeps_a_dead_letter(pool: Probe) -> None:
    tag = unique("rejected")
    result = pool.send("reject", tag)
    pool.wait_for("start", tag)
    wait_until(lambda: dead_letters(pool.url, result.id) == 1, DEADLINE_S, "the dead letter")
    drained(pool)
    assert len(pool.notes("start", tag)) == 1


def test_reject_with_requeue_runs_again_and_says_so(pool: Probe) -> None:
    tag = unique("requeued")
    assert answer(pool.send("reject", tag, kwargs={"requeue": True})) == tag
    first, second = pool.notes("start", tag)
    assert not first["redelivered"]
    assert second["redelivered"] is True
    drained(pool)


def test_a_task_that_always_rejects_ends_as_a_dead_letter(pool: Probe) -> None:
    tag = unique("poison")
    result = pool.send("reject", tag, kwargs={"requeue": True, "times": 1000})
    wait_until(lambda: dead_letters(pool.url, result.id) == 1, DEADLINE_S, "the dead letter")
    assert len(pool.notes("start", tag)) == 5
    drained(pool)


@pytest.mark.parametrize("countdown", [0, 0.3])
def test_retry_comes_again(pool: Probe, countdown: float) -> None:
    tag = unique("again")
    result = pool.send("again", tag, kwargs={"countdown": countdown})
    # Not by its result: Celery stores RETRY after it has sent the retry, which may have ended before.
    starts = pool.wait_for("start", tag, 3)
    assert [start["retries"] for start in starts] == [0, 1, 2]
    assert {start["id"] for start in starts} == {result.id}
    for before, after in pairwise(starts):
        assert after["at"] >= before["at"] + countdown
    drained(pool)


def test_a_task_may_send_tasks_from_where_it_runs(pool: Probe) -> None:
    tag = unique("sent")
    results = [pool.send("publish", f"{tag}-{number}", 5) for number in range(4)]
    for result in results:
        assert len(answer(result)) == 5
    counts = pool.wait_for_all("end", [f"{tag}-{n}-{m}" for n in range(4) for m in range(5)])
    assert set(counts.values()) == {1}


def test_chains_groups_and_chords_work(pool: Probe) -> None:
    signature = pool.app.signature
    adding = [signature("probe.add", (number, 1)) for number in range(8)]
    assert answer(group(adding).apply_async()) == [number + 1 for number in range(8)]
    assert answer(chain(signature("probe.add", (1, 1)), signature("probe.add", (3,))).apply_async()) == 5
    assert answer(chord(adding)(signature("probe.total"))) == 36


# -- order


def test_tasks_are_received_by_priority_and_in_order(pool: Probe) -> None:
    queue, name = unique("queue"), unique("priority")
    sent = [(priority, number) for number in range(2) for priority in (5, 0, 9, 3, 7)]
    for priority, number in sent:
        pool.send("run", f"{name}-{priority}-{number}", queue=queue, priority=priority)
    pool.control(pool.worker, "add_consumer", queue)
    received = [note["tag"] for note in pool.wait_for("received", f"{name}-*", len(sent))]
    pool.control(pool.worker, "cancel_consumer", queue)
    assert received == [f"{name}-{priority}-{number}" for priority in (9, 7, 5, 3, 0) for number in range(2)]


def test_a_queue_may_have_any_name(pool: Probe) -> None:
    tags = {queue: unique("named") for queue in AWKWARD.values()}
    for queue, tag in tags.items():
        pool.app.control.add_consumer(queue, destination=[pool.worker.name])
        pool.send("run_quiet", tag, queue=queue)
    assert set(pool.wait_for_all("end", list(tags.values())).values()) == {1}
    assert set(tags) <= {one["name"] for one in pool.inspect(pool.worker, "active_queues")}
    for queue in tags:
        pool.app.control.cancel_consumer(queue, destination=[pool.worker.name])
    wait_until(
        lambda: [one["name"] for one in pool.inspect(pool.worker, "active_queues")] == ["celery"],
        DEADLINE_S,
        "the consumers to be cancelled",
    )


# -- prefetch


def test_a_worker_holds_no_more_than_its_prefetch(pool: Probe) -> None:
    """With late acks and the default multiplier of 4; the rest stays where another worker would get it.

    A solo worker receives nothing while its task runs, so there it may hold less.
    """
    gate, name = unique("gate"), unique("held")
    size = POOLS[pool.name]
    free = "SELECT count(*) FROM kombu_message AS m JOIN kombu_queue AS q ON q.id = m.queue_id"
    free += " WHERE q.name = 'celery' AND m.visible"

    def received() -> int:
        return len(pool.notes("received", f"{name}-*"))

    for number in range(40):
        pool.send("run_late", f"{name}-{number}", gate)
    try:
        pool.wait_for("start", f"{name}-*", size)
        if pool.name != "solo":
            wait_until(lambda: received() == 4 * size, DEADLINE_S, "the prefetch to fill")
        # What lies in a buffer goes back within a second or two.
        wait_until(lambda: scalar(pool.url, free) == 40 - received(), DEADLINE_S, "the rest to lie free")
        assert size <= received() <= 4 * size
    finally:
        pool.open(gate)
    counts = pool.wait_for_all("end", [f"{name}-{number}" for number in range(40)])
    assert set(counts.values()) == {1}
    drained(pool)


# -- time


def test_a_countdown_is_held(pool: Probe) -> None:
    tag = unique("later")
    sent = time.time()
    result = pool.send("run", tag, countdown=1)
    assert answer(result) == tag
    (start,) = pool.notes("start", tag)
    assert start["at"] >= sent + 1
    # Held by the database, not by the worker's timer: the worker received it only when it was due.
    (received,) = pool.notes("received", tag)
    assert received["at"] >= sent + 1
    assert datetime.fromisoformat(received["eta"]) == datetime.fromisoformat(start["eta"])
    assert sent + 1 <= datetime.fromisoformat(start["eta"]).timestamp() <= start["at"]
    drained(pool)


def test_a_retry_knows_when_it_was_to_start(pool: Probe) -> None:
    tag = unique("again")
    assert answer(pool.send("again", tag, 0.2)) == 2
    etas = [note["eta"] for note in pool.notes("start", tag)]
    assert etas[0] is None
    assert sorted(etas[1:]) == etas[1:]
    assert None not in etas[1:]


def test_an_eta_far_away_holds_up_nothing(pool: Probe) -> None:
    name, tag = unique("far"), unique("now")
    far = datetime.now(UTC) + timedelta(days=365)
    results = [pool.send("run", f"{name}-{number}", eta=far) for number in range(100)]
    assert answer(pool.send("run", tag)) == tag
    assert pool.notes("received", f"{name}-*") == []
    assert pool.app.control.purge() >= 100
    assert len(results) == 100
    drained(pool)


def test_tasks_with_an_eta_are_acknowledged_late_or_early_as_usual(pool: Probe) -> None:
    name = unique("eta")
    tags = [f"{name}-{number}" for number in range(20)]
    for number, tag in enumerate(tags):
        pool.send("run_late" if number % 2 else "run", tag, countdown=0.2)
    counts = pool.wait_for_all("end", tags)
    assert set(counts.values()) == {1}
    drained(pool)


def test_an_expired_task_is_revoked_and_somebody_who_waits_hears_of_it(pool: Probe) -> None:
    tag = unique("expired")
    result = pool.send("run", tag, expires=datetime.now(UTC) + timedelta(seconds=0.3), countdown=0.6)
    with pytest.raises(TaskRevokedError):
        answer(result)
    (revoked,) = pool.wait_for("revoked", tag)
    assert revoked["expired"] is True
    assert pool.notes("start", tag) == []
    drained(pool)


def test_a_task_that_expired_while_no_worker_listened_is_revoked(pool: Probe) -> None:
    queue, tag = unique("queue"), unique("expired")
    result = pool.send("run", tag, expires=0.2, queue=queue)
    sent = time.monotonic()
    wait_until(lambda: time.monotonic() > sent + 0.4, DEADLINE_S, "the task to expire")
    pool.control(pool.worker, "add_consumer", queue)
    with pytest.raises(TaskRevokedError):
        answer(result)
    pool.control(pool.worker, "cancel_consumer", queue)
    assert pool.notes("start", tag) == []
    drained(pool, queue)


def test_a_task_that_has_not_expired_runs(pool: Probe) -> None:
    tag = unique("fresh")
    assert answer(pool.send("run", tag, expires=60)) == tag


# -- bad messages


def test_an_unknown_task_is_a_dead_letter_and_the_worker_goes_on(pool: Probe) -> None:
    result = pool.app.send_task("nobody.knows.this")
    wait_until(lambda: dead_letters(pool.url, result.id) == 1, DEADLINE_S, "the dead letter")
    tag = unique("after")
    assert answer(pool.send("run", tag)) == tag
    drained(pool)


@pytest.mark.parametrize("body", [{"not": "a task"}, "text", [1, 2, 3], None], ids=["object", "text", "list", "null"])
def test_a_message_that_is_no_task_is_a_dead_letter(pool: Probe, body: Any) -> None:
    mark = secrets.token_hex(8)
    with pool.app.producer_or_acquire() as producer:
        producer.publish(body, exchange="", routing_key="celery", serializer="json", correlation_id=mark)
    wait_until(lambda: dead_letters(pool.url, mark) == 1, DEADLINE_S, "the dead letter")
    tag = unique("after")
    assert answer(pool.send("run", tag)) == tag
    drained(pool)


# -- what it costs


def test_a_worker_has_at_most_four_connections(pool: Probe) -> None:
    name = unique("busy")
    for number in range(50):
        pool.send("run_late_quiet", f"{name}-{number}")
    pool.wait_for_all("end", [f"{name}-{number}" for number in range(50)])
    # A thread or a child that publishes has one of its own.
    allowed = 4 + (0 if pool.name == "solo" else POOLS[pool.name])
    assert 1 <= len(backends(pool.url, pool.worker.application_name)) <= allowed


def test_no_transaction_stays_open_while_a_task_runs(pool: Probe) -> None:
    gate, tag = unique("gate"), unique("held")
    pool.send("run_late", tag, gate)
    try:
        pool.wait_for("start", tag)
        idle = "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND state LIKE 'idle in tr%'"
        wait_until(lambda: scalar(pool.url, idle, name=pool.worker.application_name) == 0, DEADLINE_S, "none")
    finally:
        pool.open(gate)
    pool.wait_for("end", tag)
