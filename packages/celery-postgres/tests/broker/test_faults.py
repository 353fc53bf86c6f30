"""Faults made for real, with late acks and reject on worker lost: nothing is lost, and each second run has a reason.

Recovery of a killed process takes its five seconds of silence and a sweep, so the cases that wait for one kill
several workers at once.  The longest are marked `long`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from celery_postgres.database import watchdog
from celery_postgres.database.session import Session
from environment.temporary import TemporaryCluster
from environment.testkit.client import Client
from environment.testkit.deadlines import RESCUE_S
from environment.testkit.probe import DEADLINE_S, POOLS, Probe, ProbeWorker, unique
from environment.testkit.proxy import Proxy
from environment.testkit.tables import backends, dead_letters, rows_of, run, terminate
from environment.waiting import wait_until

#: Every pool, and in a short run only the one that differs most from the others in what the case is about.
LONG_BUT = {
    kept: [kept if pool == kept else pytest.param(pool, marks=pytest.mark.long) for pool in POOLS] for kept in POOLS
}

#: After a lease of 30 s ran out.
LEASE_S = 60


def load(probe: Probe, name: str, count: int, task: str = "run_late_quiet", **options: Any) -> list[str]:
    tags = [f"{name}-{number}" for number in range(count)]
    for tag in tags:
        probe.send(task, tag, **options)
    return tags


def begun(probe: Probe, name: str, count: int) -> None:
    probe.wait_for("end", f"{name}-*", count)


def repeated(counts: dict[str, int]) -> dict[str, int]:
    return {tag: count for tag, count in counts.items() if count > 1}


def drained(probe: Probe) -> None:
    wait_until(lambda: rows_of(probe.url) == 0, RESCUE_S, "every message to be acknowledged")


# -- processes


def test_kill_9_of_workers_loses_nothing(probe: Probe) -> None:
    """Three workers, one of each pool, die in the middle of late-ack and early-ack tasks; a fourth ends the work."""
    gate = unique("gate")
    workers, names = {}, {}
    for pool in POOLS:
        for kind in ("run_late", "run"):
            names[pool, kind] = unique(f"{pool}-{kind}")
        workers[pool] = probe.start(pool=pool, queues=[pool], ready=False)
    for pool, worker in workers.items():
        worker.wait_ready()
        for number in range(6):
            probe.send("run_late", f"{names[pool, 'run_late']}-{number}", gate, queue=pool)
            probe.send("run", f"{names[pool, 'run']}-{number}", gate, queue=pool)
    for pool, worker in workers.items():
        probe.wait_for("start", f"{pool}-*", POOLS[pool])
        worker.kill()
    started = {pool: {note["tag"] for note in probe.notes("start", f"{pool}-*")} for pool in POOLS}
    probe.open(gate)
    probe.start(pool="threads", concurrency=4, queues=list(POOLS))
    for pool in POOLS:
        late = [f"{names[pool, 'run_late']}-{number}" for number in range(6)]
        early = [f"{names[pool, 'run']}-{number}" for number in range(6)]
        # An early ack says "mine": what had started may be gone with its worker, as on every broker.
        survivors = [tag for tag in early if tag not in started[pool]]
        counts = probe.wait_for_all("end", [*late, *survivors], RESCUE_S)
        assert repeated(counts) == {}
        # Only what had started ran twice.
        starts = {tag: len(probe.notes("start", tag)) for tag in [*late, *early]}
        assert {tag for tag, count in starts.items() if count > 1} <= started[pool]
    drained(probe)
    assert dead_letters(probe.url) == 0


def test_a_killed_prefork_child_costs_its_task_a_second_run_and_nobody_else(probe: Probe) -> None:
    worker = probe.start(pool="prefork")
    name, dying = unique("work"), unique("dying")
    tags = load(probe, name, 30)
    result = probe.send("die", dying)
    tags += load(probe, unique("more"), 30)
    assert result.get(timeout=RESCUE_S, interval=0.02) == dying
    counts = probe.wait_for_all("end", tags)
    assert len(probe.notes("start", dying)) == 2
    assert probe.notes("start", dying)[1]["redelivered"] is True
    assert set(counts.values()) == {1}
    assert worker.process.poll() is None
    drained(probe)


def test_a_task_that_kills_every_process_ends_as_a_dead_letter(probe: Probe) -> None:
    """An out-of-memory task condemns only itself."""
    probe.start(pool="prefork")
    name, dying = unique("work"), unique("dying")
    result = probe.send("die", dying, kwargs={"times": 1000})
    tags = load(probe, name, 20)
    wait_until(lambda: dead_letters(probe.url, result.id) == 1, 60, "the dead letter")
    assert len(probe.notes("start", dying)) == 5
    probe.wait_for_all("end", tags)
    drained(probe)


@pytest.mark.long
@pytest.mark.parametrize("pool", ["solo", "threads"], indirect=False)
def test_a_task_that_kills_every_worker_ends_as_a_dead_letter(probe: Probe, pool: str) -> None:
    """The same where the task takes its worker along; a supervisor starts the next one."""
    dying, tags = unique("dying"), [unique("innocent") for _ in range(6)]
    result = probe.send("die", dying, kwargs={"times": 1000})
    for tag in tags:
        probe.send("run_late_quiet", tag)

    def buried() -> bool:
        if not probe.workers or probe.workers[-1].process.poll() is not None:
            probe.start(pool=pool, ready=False)
        return dead_letters(probe.url, result.id) == 1

    wait_until(buried, 180, "the dead letter")
    assert len(probe.notes("start", dying)) <= 6
    probe.wait_for_all("end", tags)
    assert dead_letters(probe.url) == 1


@pytest.mark.parametrize(
    ("signal_name", "pool_name"),
    [("TERM", "threads"), ("QUIT", "prefork"), pytest.param("TERM", "prefork", marks=pytest.mark.long)],
)
def test_a_worker_that_is_told_to_stop_leaves_the_rest_at_once(probe: Probe, signal_name: str, pool_name: str) -> None:
    """TERM drains, QUIT drops (Celery can do that in prefork alone); another worker need not wait for a lease."""
    gate, name = unique("gate"), unique("left")
    worker = probe.start(pool=pool_name, concurrency=1)
    tags = load(probe, name, 10, task="run_late_quiet")
    tags += [unique("held")]
    probe.send("run_late_quiet", tags[-1], gate, priority=9)
    probe.open(gate)
    os.kill(worker.pid, getattr(signal, f"SIG{signal_name}"))
    wait_until(lambda: worker.process.poll() is not None, RESCUE_S, "the worker to end")
    probe.start()
    counts = probe.wait_for_all("end", tags, RESCUE_S)
    if signal_name == "TERM":
        assert repeated(counts) == {}
        assert worker.process.returncode == 0
    drained(probe)


@pytest.mark.parametrize("pool_name", LONG_BUT["solo"])
def test_an_eta_outlives_its_worker(probe: Probe, pool_name: str) -> None:
    first = probe.start(pool=pool_name)
    name, sent_at = unique("later"), time.time()
    tags = load(probe, name, 10, countdown=3)
    first.stop()
    probe.start(pool=pool_name)
    counts = probe.wait_for_all("end", tags)
    assert set(counts.values()) == {1}
    assert all(note["at"] >= sent_at + 3 for note in probe.notes("start", f"{name}-*"))
    drained(probe)


# -- connections


def each_connection_cut(probe: Probe, worker: ProbeWorker, name: str, per_cut: int = 15) -> tuple[list[str], int]:
    """Terminate one connection of a worker after the other, each of them with work in hand."""
    tags = load(probe, f"{name}-warm", per_cut)
    probe.wait_for_all("end", tags)
    cut: set[int] = set()
    for round_number in range(12):
        fresh = [pid for pid in backends(probe.url, worker.application_name) if pid not in cut]
        if not fresh or round_number >= 8:
            break
        more = load(probe, f"{name}-{round_number}", per_cut)
        begun(probe, f"{name}-{round_number}", 1)
        cut.add(fresh[0])
        terminate(probe.url, fresh[0])
        probe.wait_for_all("end", more)
        tags += more
    return tags, len(cut)


@pytest.mark.parametrize("name", LONG_BUT["prefork"])
def test_a_terminated_connection_costs_nothing(probe: Probe, name: str) -> None:
    """Each connection of the worker in turn, under load.  All are repaired inside the transport while the lease is
    valid, so no task runs twice.
    """
    worker = probe.start(pool=name)
    tags, cut = each_connection_cut(probe, worker, unique("cut"))
    assert cut >= 2
    counts = probe.wait_for_all("end", tags)
    assert repeated(counts) == {}
    assert len(probe.notes("start", "cut*")) == len(tags)
    drained(probe)
    assert worker.process.poll() is None
    assert probe.inspect(worker, "ping") == {"ok": "pong"}


@pytest.mark.parametrize("name", LONG_BUT["solo"])
def test_a_running_task_survives_all_connections(probe: Probe, name: str) -> None:
    """Everything is terminated at once while late-ack tasks run: they end once, and their acks count."""
    gate, tag = unique("gate"), unique("running")
    worker = probe.start(pool=name, conf={"worker_cancel_long_running_tasks_on_connection_loss": False})
    tags = [f"{tag}-{number}" for number in range(8)]
    for one in tags:
        probe.send("run_late_quiet", one, gate)
    probe.wait_for("start", f"{tag}-*", POOLS[name])
    old = backends(probe.url, worker.application_name)
    for pid in old:
        terminate(probe.url, pid)
    wait_until(
        lambda: not set(old) & set(backends(probe.url, worker.application_name)), RESCUE_S, "the old connections to go"
    )
    probe.open(gate)
    counts = probe.wait_for_all("end", tags)
    assert repeated(counts) == {}
    drained(probe)


# -- the server


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("prefork", "fast"),
        ("solo", "immediate"),
        pytest.param("threads", "fast", marks=pytest.mark.long),
        pytest.param("solo", "fast", marks=pytest.mark.long),
        pytest.param("threads", "immediate", marks=pytest.mark.long),
        pytest.param("prefork", "immediate", marks=pytest.mark.long),
    ],
)
def test_a_server_that_restarts_under_load_costs_nothing(
    durable_cluster: TemporaryCluster, make_probe: Callable[..., Probe], name: str, mode: str
) -> None:
    probe = make_probe(durable_cluster.url())
    worker = probe.start(pool=name, conf={"worker_cancel_long_running_tasks_on_connection_loss": False})
    tag = unique("load")
    tags = load(probe, tag, 300)
    stopped = []
    for done in (20, 120):
        begun(probe, tag, done)
        stopped.append(time.time())
        durable_cluster.stop(mode)
        durable_cluster.start()
    again = repeated(probe.wait_for_all("end", tags, LEASE_S))
    if mode == "immediate":
        # Acks are written without waiting for the disk: a crash forgets those of the last 0.6 s (three times
        # wal_writer_delay), and their tasks run again.  Nothing else does.
        for one in again:
            ended = probe.notes("end", one)[0]["at"]
            assert any(moment - 6 < ended < moment + 1 for moment in stopped), (one, ended, stopped)  # ten times that
    else:
        assert again == {}
    drained(probe)
    assert worker.process.poll() is None
    assert probe.inspect(worker, "ping") == {"ok": "pong"}


@pytest.mark.parametrize("name", LONG_BUT["threads"])
def test_a_crash_of_the_server_repeats_no_task_that_was_acknowledged_before_it_ran(
    durable_cluster: TemporaryCluster, make_probe: Callable[..., Probe], name: str
) -> None:
    """The server forgets the claim and the ack, which do not wait for its disk; the worker does not."""
    durable_cluster.options["wal_writer_delay"] = "10s"
    durable_cluster.restart()
    probe = make_probe(durable_cluster.url())
    worker = probe.start(pool=name)
    gate, tag = unique("gate"), unique("early")
    probe.send("run_quiet", tag, gate)
    probe.wait_for("start", tag)
    durable_cluster.stop("immediate")
    durable_cluster.start()
    wait_until(lambda: "The broker is reachable again" in worker.log_text(), RESCUE_S, "the worker to be back")
    probe.open(gate)
    others = load(probe, unique("later"), 5, "run_quiet")
    counts = probe.wait_for_all("start", [tag, *others])
    drained(probe)
    assert repeated(counts) == {}


@pytest.mark.parametrize("name", LONG_BUT["solo"])
def test_a_worker_is_stopped_while_its_server_is_away(
    durable_cluster: TemporaryCluster, make_probe: Callable[..., Probe], name: str
) -> None:
    """Its main thread has begun to send a heartbeat event, and Kombu tries that without end."""
    probe = make_probe(durable_cluster.url())
    worker = probe.start(pool=name)
    tag = unique("before")
    probe.send("run_late_quiet", tag)
    probe.wait_for("end", tag)
    durable_cluster.stop()
    # With pauses that grow to 2 s: more than the 2 s between two events.
    wait_until(lambda: worker.log_text().count("Cannot reach the broker") >= 7, DEADLINE_S, "several attempts")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(DEADLINE_S) == 0


def test_a_publisher_waits_for_a_server_that_restarts(
    durable_cluster: TemporaryCluster, make_probe: Callable[..., Probe]
) -> None:
    """apply_async retries.  A publish whose answer was lost may be there twice, with one task id."""
    probe = make_probe(durable_cluster.url())
    probe.start()
    tag = unique("before")
    probe.wait_for_all("end", load(probe, tag, 5))
    durable_cluster.stop("immediate")
    durable_cluster.start()
    after = load(probe, unique("after"), 20, retry=True)
    assert set(probe.wait_for_all("end", after, LEASE_S).values()) == {1}


def test_a_publisher_on_a_dead_server_is_told(
    durable_cluster: TemporaryCluster, make_probe: Callable[..., Probe]
) -> None:
    probe = make_probe(durable_cluster.url())
    probe.send("run", "x")
    durable_cluster.stop()
    from kombu.exceptions import OperationalError

    with pytest.raises(OperationalError):
        probe.send("run", "y", retry=False)
    durable_cluster.start()
    probe.send("run", "z", retry=False)
    assert rows_of(durable_cluster.url()) == 2


# -- the network


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
def test_a_publisher_whose_idle_connections_were_closed_publishes(
    make_probe: Callable[..., Probe], plain_database: Any, proxy: Proxy, reset: bool
) -> None:
    """A firewall, a pooler or a server ends them; what was never sent may be sent again, whoever may retry."""
    probe = make_probe(proxy.url(plain_database.tcp_url))
    backend = probe.app.backend
    for number in range(3):
        probe.send("run", f"before-{number}", retry=False)
        backend.sessions._idle += [backend.sessions.connect() for _ in range(2)]
        proxy.cut(reset=reset)
        probe.send("run", f"after-{number}", retry=False)
        proxy.cut(reset=reset)
        assert probe.app.AsyncResult(unique("task")).state == "PENDING"
    assert rows_of(plain_database.url) == 6


@pytest.fixture
def far_probe(make_probe: Callable[..., Probe], plain_database: Any, proxy: Proxy) -> Probe:
    """A probe whose workers reach the broker through the proxy; the client and the results go directly."""
    return make_probe(plain_database.url, broker_url=proxy.url(plain_database.tcp_url))


@pytest.mark.parametrize("name", LONG_BUT["threads"])
def test_a_network_that_drops_costs_nothing(far_probe: Probe, proxy: Proxy, name: str) -> None:
    worker = far_probe.start(pool=name)
    tag = unique("load")
    tags = load(far_probe, tag, 200)
    for done in (10, 60, 110):
        begun(far_probe, tag, done)
        proxy.cut()
    counts = far_probe.wait_for_all("end", tags)
    assert repeated(counts) == {}
    drained(far_probe)
    assert worker.process.poll() is None


def test_a_network_that_is_away_for_a_while_costs_nothing(far_probe: Probe, proxy: Proxy) -> None:
    worker = far_probe.start(pool="threads")
    tag = unique("load")
    tags = load(far_probe, tag, 100)
    begun(far_probe, tag, 10)
    proxy.refuse()
    proxy.cut()
    tags += load(far_probe, unique("meanwhile"), 20)
    wait_until(lambda: backends(far_probe.url, worker.application_name) == [], RESCUE_S, "the server to notice")
    proxy.refuse(False)
    counts = far_probe.wait_for_all("end", tags)
    assert repeated(counts) == {}
    drained(far_probe)


def test_a_network_that_stalls_costs_nothing(far_probe: Probe, proxy: Proxy) -> None:
    """Nothing passes and nothing is closed, until tasks have been published that the worker cannot see."""
    far_probe.start(pool="threads")
    tag = unique("load")
    tags = load(far_probe, tag, 100)
    begun(far_probe, tag, 10)
    proxy.stall()
    tags += load(far_probe, unique("meanwhile"), 20)
    proxy.resume()
    counts = far_probe.wait_for_all("end", tags)
    assert repeated(counts) == {}
    drained(far_probe)


@pytest.mark.parametrize("name", LONG_BUT["threads"])
def test_a_worker_is_stopped_while_its_server_says_nothing(far_probe: Probe, proxy: Proxy, name: str) -> None:
    worker = far_probe.start(pool=name)
    tag = unique("before")
    far_probe.send("run_late_quiet", tag)
    far_probe.wait_for("end", tag)
    proxy.stall()
    # It is woken up, and asks.
    far_probe.send("run_late_quiet", unique("after"))
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the worker to end")


def test_a_statement_without_an_answer_is_given_up(plain_database: Any, proxy: Proxy) -> None:
    watchdog.start()
    with closing(Session(proxy.url(plain_database.tcp_url), {"statement_timeout": "2s"})) as session:
        assert session.run("find_queue", queue="none") == []
        proxy.stall()
        with pytest.raises(psycopg2.OperationalError):
            session.run("find_queue", queue="none")
        assert session.closed


@pytest.mark.parametrize("name", LONG_BUT["solo"])
def test_an_answer_that_is_lost_costs_nothing(far_probe: Probe, proxy: Proxy, name: str) -> None:
    """The server has committed a claim or an ack and the worker never hears of it: the connection ends instead."""
    worker = far_probe.start(pool=name)
    tag = unique("load")
    tags = load(far_probe, tag, 150)
    for done in (10, 60, 100):
        begun(far_probe, tag, done)
        before = proxy.swallowed
        proxy.swallow_answers()
        wait_until(lambda before=before: proxy.swallowed > before, RESCUE_S, "an answer to be swallowed")
        proxy.cut()
        proxy.swallow_answers(False)
    # What was claimed by an answer that was lost comes back without a run: nobody has seen it.
    counts = far_probe.wait_for_all("end", tags, LEASE_S)
    assert repeated(counts) == {}
    drained(far_probe)
    assert worker.process.poll() is None


@pytest.mark.long
def test_a_stall_longer_than_the_lease_moves_the_work_to_another_worker(far_probe: Probe, proxy: Proxy) -> None:
    """What the stalled worker holds runs elsewhere; what it was running then runs a second time, and its late ack
    changes nothing.
    """
    stalled = far_probe.start(pool="threads")
    gate, held = unique("gate"), unique("held")
    for number in range(6):
        far_probe.send("run_late_quiet", f"{held}-{number}", gate)
    far_probe.wait_for("start", f"{held}-*", 3)
    running = {note["tag"] for note in far_probe.notes("start", f"{held}-*")}
    proxy.stall()
    far_probe.start(pool="threads", broker_url=far_probe.url)
    far_probe.wait_for("start", f"{held}-*", 6, LEASE_S)
    far_probe.open(gate)
    counts = far_probe.wait_for_all("end", [f"{held}-{number}" for number in range(6)], LEASE_S)
    proxy.resume()
    drained(far_probe)
    assert set(repeated(counts)) <= running
    after = load(far_probe, unique("after"), 30)
    assert repeated(far_probe.wait_for_all("end", after)) == {}
    assert stalled.process.poll() is None
    assert dead_letters(far_probe.url) == 0


# -- who is alive


def test_a_worker_that_is_busy_for_long_keeps_its_task(probe: Probe) -> None:
    """A solo worker's main thread runs the task; the heartbeat goes on, so nobody rescues it."""
    gate, tag = unique("gate"), unique("busy")
    busy = probe.start()
    probe.send("run_late_quiet", tag, gate)
    probe.wait_for("start", tag)
    probe.start(queues=["celery"])
    killed = probe.start(queues=["other"])
    probe.send("run_late_quiet", f"{tag}-other", "never", queue="other")
    probe.wait_for("start", f"{tag}-other")
    killed.kill()
    probe.start(queues=["other"])
    # The rescue of a dead worker's task says that sweeps have looked at everybody.
    probe.wait_for("start", f"{tag}-other", 2, RESCUE_S)
    assert len(probe.notes("start", tag)) == 1
    probe.open(gate)
    probe.wait_for("end", tag)
    assert busy.process.poll() is None


def test_a_stopped_process_that_wakes_after_its_rescue_changes_nothing(probe: Probe) -> None:
    """SIGSTOP is a long garbage collection or a suspended machine: the heartbeat stops, the lock stays."""
    if not hasattr(signal, "SIGSTOP"):
        pytest.skip("no SIGSTOP")
    worker = probe.start(pool="threads")
    tag = unique("work")
    tags = load(probe, tag, 100)
    begun(probe, tag, 5)
    os.killpg(worker.pid, signal.SIGSTOP)
    more = load(probe, unique("more"), 10)
    os.killpg(worker.pid, signal.SIGCONT)
    counts = probe.wait_for_all("end", [*tags, *more])
    assert repeated(counts) == {}
    drained(probe)


def test_a_reader_with_an_open_transaction_stops_nobody(probe: Probe, connect: Callable[..., Client]) -> None:
    """pg_dump or a forgotten psql: old snapshots make claims walk dead rows, and must not stop them."""
    probe.start(pool="threads")
    with psycopg2.connect(probe.url) as reader, reader.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM kombu_message")
        tags = load(probe, unique("work"), 200)
        assert set(probe.wait_for_all("end", tags).values()) == {1}
    drained(probe)


def test_vacuum_full_and_a_lock_only_delay(probe: Probe) -> None:
    """An ACCESS EXCLUSIVE lock, as a careless migration takes it, makes the broker wait and lose nothing."""
    worker = probe.start()
    tag = unique("work")
    tags = load(probe, tag, 50)
    begun(probe, tag, 5)
    run(probe.url, "VACUUM FULL kombu_message")
    with psycopg2.connect(probe.url) as locker, locker.cursor() as cursor:
        cursor.execute("LOCK TABLE kombu_message IN ACCESS EXCLUSIVE MODE")
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = :n"
        from environment.testkit.tables import scalar

        wait_until(lambda: scalar(probe.url, blocked, n=worker.application_name) > 0, RESCUE_S, "the worker to wait")
    counts = probe.wait_for_all("end", tags)
    assert repeated(counts) == {}
    drained(probe)


def test_worker_processes_leave_no_children_behind(probe: Probe) -> None:
    worker = probe.start(pool="prefork")
    probe.wait_for_all("end", load(probe, unique("work"), 10))
    assert worker.stop() == 0
    left = subprocess.run(["pgrep", "-s", str(worker.pid)], capture_output=True, text=True, check=False).stdout
    assert left == ""
    wait_until(lambda: backends(probe.url, worker.application_name) == [], RESCUE_S, "its connections to go")
