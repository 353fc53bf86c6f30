"""Remote control and events, as `celery inspect`, `celery control`, `celery events` and Flower use them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from environment.testkit.probe import DEADLINE_S, Probe, before_due, unique
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until


def answer(result: Any) -> Any:
    return result.get(timeout=DEADLINE_S, interval=0.02)


def ids(requests: list[dict[str, Any]]) -> set[str]:
    return {request["id"] for request in requests}


# -- inspect


def test_ping(pool: Probe) -> None:
    assert pool.inspect(pool.worker, "ping") == {"ok": "pong"}
    assert pool.app.control.ping(timeout=DEADLINE_S, limit=1) == [{pool.worker.name: {"ok": "pong"}}]


def test_a_ping_to_nobody_is_answered_by_nobody(pool: Probe) -> None:
    assert pool.app.control.ping(destination=["nobody@nowhere"], timeout=0.5) == []


def test_registered_and_active_queues(pool: Probe) -> None:
    assert "probe.run" in pool.inspect(pool.worker, "registered")
    assert "celery" in [queue["name"] for queue in pool.inspect(pool.worker, "active_queues")]


def test_stats_and_conf(pool: Probe) -> None:
    stats = pool.inspect(pool.worker, "stats")
    assert stats["pid"] == pool.worker.pid
    assert isinstance(stats["broker"]["transport"], str)
    assert "probe" in str(pool.inspect(pool.worker, "conf"))


def test_active_and_reserved(pool: Probe) -> None:
    if pool.name == "solo":
        pytest.skip("a solo worker answers nobody while its one task runs")
    gate, name = unique("gate"), unique("held")
    results = [pool.send("run_late", f"{name}-{number}", gate) for number in range(8)]
    size = 3 if pool.name == "threads" else 2
    try:
        pool.wait_for("start", f"{name}-*", size)
        # A child's task has begun before its main process has read so.
        wait_until(lambda: len(ids(pool.inspect(pool.worker, "active"))) == size, DEADLINE_S, "the tasks to be active")
        active = ids(pool.inspect(pool.worker, "active"))
        assert active <= {result.id for result in results}
        wait_until(
            lambda: len(ids(pool.inspect(pool.worker, "reserved")) - active) == min(8, 4 * size) - size,
            DEADLINE_S,
            "the prefetch to fill",
        )
        found = pool.inspect(pool.worker, "query_task", [results[0].id])
        assert results[0].id in found
    finally:
        pool.open(gate)
    for result in results:
        answer(result)


# -- control


def test_revoke_of_a_task_that_waits_for_its_time(pool: Probe) -> None:
    result = before_due(
        lambda countdown_s: pool.send("run", unique("revoked"), countdown=countdown_s),
        lambda sent: pool.control(pool.worker, "revoke", sent.id),
    )
    with pytest.raises(TaskRevokedError):
        answer(result)
    assert result.id not in ids(pool.notes("start"))
    wait_until(lambda: rows_of(pool.url, "celery") == 0, DEADLINE_S, "its message to go")


def test_a_revoked_task_stays_revoked_for_a_worker_that_starts_later(probe: Probe) -> None:
    """Workers keep revokes in memory; the message must not outlive them."""
    first = probe.start()
    tag, queue = unique("revoked"), unique("later")
    result = probe.send("run", tag, queue=queue)
    probe.app.control.revoke(result.id, reply=True, timeout=DEADLINE_S, limit=1)
    first.kill()
    probe.start(queues=[queue], args=["--without-mingle", "--without-gossip"])
    with pytest.raises(TaskRevokedError):
        answer(result)
    assert probe.notes("start", tag) == []


def test_terminate_ends_a_running_task(pool: Probe) -> None:
    if pool.name != "prefork":
        pytest.skip("only a process can be ended from outside")
    tag = unique("endless")
    result = pool.send("spin", tag)
    pool.wait_for("start", tag)
    pool.app.control.revoke(result.id, terminate=True, signal="KILL")
    with pytest.raises(TaskRevokedError):
        answer(result)
    after = unique("after")
    assert answer(pool.send("run", after)) == after


def test_rate_limit_and_time_limit(pool: Probe) -> None:
    assert "ok" in pool.control(pool.worker, "rate_limit", "probe.echo", "100/s")
    assert answer(pool.send("echo", 1)) == 1
    assert "ok" in pool.control(pool.worker, "rate_limit", "probe.echo", 0)
    assert "ok" in pool.control(pool.worker, "time_limit", "probe.echo", hard=60, soft=30)


def test_add_consumer_and_cancel_consumer(pool: Probe) -> None:
    queue, first, second = unique("queue"), unique("first"), unique("second")
    result = pool.send("run", first, queue=queue)
    assert "ok" in pool.control(pool.worker, "add_consumer", queue)
    assert answer(result) == first
    assert "ok" in pool.control(pool.worker, "cancel_consumer", queue)
    assert queue not in [one["name"] for one in pool.inspect(pool.worker, "active_queues")]
    pool.send("run", second, queue=queue)
    other = unique("other")
    assert answer(pool.send("run", other)) == other
    assert pool.notes("received", second) == []


def test_pool_grow_and_shrink(pool: Probe) -> None:
    if pool.name != "prefork":
        pytest.skip("only prefork grows")
    assert "ok" in pool.control(pool.worker, "pool_grow", 1)
    wait_until(lambda: len(pool.inspect(pool.worker, "stats")["pool"]["processes"]) == 3, DEADLINE_S, "a third process")
    assert "ok" in pool.control(pool.worker, "pool_shrink", 1)
    wait_until(lambda: len(pool.inspect(pool.worker, "stats")["pool"]["processes"]) == 2, DEADLINE_S, "it to go")
    tags = [unique("grown") for _ in range(6)]
    for tag in tags:
        pool.send("run", tag)
    assert set(pool.wait_for_all("end", tags).values()) == {1}


@pytest.mark.parametrize("name", ["solo", pytest.param("threads", marks=pytest.mark.long), "prefork"])
def test_shutdown_drains_and_leaves_the_rest_for_others(probe: Probe, name: str) -> None:
    gate, tag = unique("gate"), unique("held")
    worker = probe.start(pool=name, concurrency=1, conf={"worker_prefetch_multiplier": 1})
    if name == "solo":
        # It hears nothing while its task runs, so the order must be waiting for it.
        probe.open(gate)
    for number in range(3):
        probe.send("run_late", f"{tag}-{number}", gate)
    probe.wait_for("start", f"{tag}-*")
    probe.app.control.shutdown(destination=[worker.name])
    if name != "solo":
        wait_until(lambda: "shutdown" in worker.log_text().lower(), DEADLINE_S, "the worker to hear")
    probe.open(gate)
    wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the worker to end")
    assert worker.process.returncode == 0
    assert "Traceback" not in worker.log_text()
    probe.start()
    counts = probe.wait_for_all("end", [f"{tag}-{number}" for number in range(3)])
    assert set(counts.values()) == {1}
    assert len(probe.notes("start", f"{tag}-*")) == 3


def test_orders_reach_every_worker_of_every_pool(probe: Probe) -> None:
    workers = [probe.start(pool=name, concurrency=1, ready=False) for name in ("solo", "threads", "prefork")]
    for worker in workers:
        worker.wait_ready()
    answers = probe.app.control.ping(timeout=DEADLINE_S, limit=3)
    assert sorted(name for one in answers for name in one) == sorted(worker.name for worker in workers)
    shared = unique("queue")
    answers = probe.app.control.add_consumer(shared, reply=True, timeout=DEADLINE_S, limit=3)
    assert len(answers) == 3
    tags = [unique("shared") for _ in range(30)]
    for tag in tags:
        probe.send("run", tag, queue=shared)
    assert set(probe.wait_for_all("end", tags).values()) == {1}


def test_workers_of_one_broker_know_each_other(probe: Probe) -> None:
    """Mingle and gossip run only for transports that Celery knows to be able to."""
    conf = {"broker_transport_options": {"gossip": True}}
    first = probe.start(conf=conf)
    second = probe.start(conf=conf)
    for _ in range(4):
        if "mingle: sync with 1 nodes" in second.log_text():
            break
        # Celery waits for answers for one second, which may be too short for a busy machine.
        second.stop()
        second = probe.start(conf=conf)
    assert "mingle: sync with 1 nodes" in second.log_text()
    wait_until(lambda: second.name in first.log_text(), DEADLINE_S, "the first to hear of the second")


def test_idle_workers_send_each_other_nothing(probe: Probe) -> None:
    """Or each would get a row of each heartbeat of every other."""
    subscribed = "SELECT count(*) FROM kombu_binding WHERE exchange = 'celeryev'"
    probe.start()
    probe.start()
    assert scalar(probe.url, subscribed) == 0
    probe.start(conf={"broker_transport_options": {"gossip": True}})
    assert scalar(probe.url, subscribed) == 1


def test_nothing_is_left_of_a_question(probe: Probe) -> None:
    """Reply queues go with who asked, and no worker collects what it has answered."""
    worker = probe.start(args=["--without-mingle", "--without-gossip"])
    for _ in range(3):
        probe.inspect(worker, "ping")
    probe.close_client()
    wait_until(lambda: replies(probe.url) == 0, DEADLINE_S, "the reply queue to go")
    assert rows_of(probe.url) == 0


def replies(url: str) -> int:
    return int(scalar(url, "SELECT count(*) FROM kombu_queue WHERE name LIKE '%.reply.celery.pidbox'"))


# -- events


@contextmanager
def listening(pool: Probe) -> Iterator[Callable[..., dict[str, Any]]]:
    """Collects events in a thread; gives a function that waits for one by type and task id (or one of several). With
    `send` it sends a task, again and again, until it has heard of one: Celery itself drops events that a thread adds
    to a buffer that is just being published (EventDispatcher.flush)."""
    seen: list[dict[str, Any]] = []
    stop, started = threading.Event(), threading.Event()

    def listen() -> None:
        with pool.app.connection_for_read() as connection:
            receiver = pool.app.events.Receiver(connection, handlers={"*": seen.append})
            # A receiver consumes on a clone of its connection.
            with receiver.consumer_context(wakeup=True) as (own, _, _):
                started.set()
                while not stop.is_set():
                    try:
                        own.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

    thread = threading.Thread(target=listen)
    thread.start()
    assert started.wait(DEADLINE_S)

    def wait(kind: str, *of: str, send: Callable[[], str] | None = None) -> dict[str, Any]:
        names = set(of)

        def found() -> list[dict[str, Any]]:
            if send is not None:
                names.add(send())
            return [e for e in list(seen) if e["type"] == kind and {e.get("uuid"), e["hostname"]} & names]

        return wait_until(found, DEADLINE_S, f"{kind} of {names}", 0.2)[0]

    try:
        yield wait
    finally:
        stop.set()
        thread.join(DEADLINE_S)


def test_a_listener_hears_what_becomes_of_a_task(pool: Probe) -> None:
    with listening(pool) as wait:
        for kind in ("task-received", "task-started", "task-succeeded"):
            assert wait(kind, send=lambda: pool.send("run", unique("heard")).id)["hostname"] == pool.worker.name
        assert "ValueError" in wait("task-failed", send=lambda: pool.send("fail", unique("heard")).id)["exception"]
        assert wait("worker-heartbeat", pool.worker.name)


def test_a_listener_hears_of_revokes_and_retries(pool: Probe) -> None:
    with listening(pool) as wait:
        again = [pool.send("again", unique("heard")).id for _ in range(5)]
        assert wait("task-retried", *again)
        soon = datetime.now(UTC) + timedelta(seconds=0.1)
        expired = [pool.send("run", unique("heard"), expires=soon, countdown=0.3).id for _ in range(5)]
        assert wait("task-revoked", *expired)["expired"]


def test_two_listeners_hear_the_same(pool: Probe) -> None:
    with listening(pool) as one, listening(pool) as other:
        heard = one("task-succeeded", send=lambda: pool.send("run", unique("heard")).id)["uuid"]
        assert other("task-succeeded", heard)["uuid"] == heard


def test_events_can_be_switched(pool: Probe) -> None:
    assert "ok" in pool.control(pool.worker, "disable_events")
    assert "ok" in pool.control(pool.worker, "enable_events")
    with listening(pool) as wait:
        assert wait("task-succeeded", send=lambda: pool.send("run", unique("heard")).id)
