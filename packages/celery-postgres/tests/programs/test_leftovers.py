"""What programs leave behind that are killed while they listen to events or wait for a reply, and what they do not."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Exchange, Queue

from celery_postgres.database.queue_store import QueueStore
from environment.testkit.client import Client
from environment.testkit.deadlines import SWEPT_S
from environment.testkit.probe import Probe
from environment.testkit.tables import rows, rows_of, run, scalar
from environment.waiting import wait_until

DEADLINE_S = 40
#: Shorter than in earnest, for the probe's workers: the lease.
LEASE_S = 6
Start = Callable[..., subprocess.Popen[str]]

#: Listens to events, and notes each task that it hears of.
RECEIVER = """
import os, mine
with mine.app.connection_for_read() as connection:
    def heard(event):
        print("heard", event.get("uuid"), flush=True)
    receiver = mine.app.events.Receiver(connection, handlers={"task-succeeded": heard})
    receiver.capture(limit=None, timeout=None, wakeup=True)
"""
#: Asks all workers, and waits for answers that do not come for as long as the test.
QUESTION = """
import mine
mine.app.control.ping(destination=["nobody@nowhere"], timeout=600)
"""
#: As in a restart: the program is killed after it has declared its queue, and before it consumes.
DECLARATION = """
import os, signal, mine
with mine.app.connection_for_read() as connection:
    receiver = mine.app.events.Receiver(connection)
    receiver.queue(connection.default_channel).declare()
    os.kill(os.getpid(), signal.SIGKILL)
"""
TRANSPORT = "celery_postgres:Transport"


def queues_of(url: str, pid: int) -> set[str]:
    return {
        name
        for (name,) in rows(
            url,
            "SELECT queue.name FROM kombu_queue AS queue JOIN kombu_subscription AS s ON s.queue_id = queue.id"
            " JOIN kombu_consumer AS consumer ON consumer.id = s.consumer_id WHERE consumer.pid = :pid",
            pid=pid,
        )
    }


def queues(url: str) -> set[str]:
    return {name for (name,) in rows(url, "SELECT name FROM kombu_queue")}


@pytest.fixture
def listen(start: Start, mine: Any, probe: Probe) -> Callable[..., tuple[Any, str]]:
    """``listen(program, word)``: a process that consumes one queue, whose name has the word; and the queue."""

    def begin(program: str = RECEIVER, word: str = "celeryev.", **settings: Any) -> tuple[Any, str]:
        process = start(["-c", program], mine(broker_url=probe.url, broker_transport=TRANSPORT, **settings))
        wait_until(
            lambda: any(word in name for name in queues_of(probe.url, process.pid)), DEADLINE_S, "it to consume"
        )
        (queue,) = queues_of(probe.url, process.pid)
        return process, queue

    return begin


# -- gone


@pytest.mark.parametrize(
    ("program", "word"), [(RECEIVER, "celeryev."), (QUESTION, "reply.celery.pidbox")], ids=["events", "a reply"]
)
@pytest.mark.parametrize("expires", [True, False], ids=["with an expiry", "without an expiry"])
def test_the_queue_of_a_killed_program_goes(
    probe: Probe, listen: Any, program: str, word: str, expires: bool
) -> None:
    probe.start()
    settings = {} if expires else {"event_queue_expires": None, "control_queue_expires": None}
    process, queue = listen(program, word, **settings)
    process.kill()
    process.wait()
    wait_until(lambda: queue not in queues(probe.url), SWEPT_S, f"{queue} to go")
    assert scalar(probe.url, "SELECT count(*) FROM kombu_binding WHERE routing_key = :queue", queue=queue) == 0


def test_the_queue_of_a_program_that_was_killed_before_it_consumed_goes(
    probe: Probe, start: Start, mine: Any
) -> None:
    probe.start()
    settings = {"broker_url": probe.url, "broker_transport": TRANSPORT, "event_queue_expires": 2}
    process = start(["-c", DECLARATION], mine(**settings))
    assert process.wait(DEADLINE_S) == -signal.SIGKILL
    (queue,) = queues(probe.url) - queues_of(probe.url, probe.workers[0].pid)
    wait_until(lambda: queue not in queues(probe.url), SWEPT_S, f"{queue} to go")


def test_the_next_program_that_consumes_cleans_where_no_worker_lives(probe: Probe, listen: Any) -> None:
    first, queue = listen()
    first.kill()
    first.wait()
    _, own = listen()
    wait_until(lambda: queue not in queues(probe.url), SWEPT_S, f"{queue} to go")
    assert own in queues(probe.url)


def test_a_durable_queue_of_a_killed_consumer_stays(probe: Probe) -> None:
    worker = probe.start()
    probe.send("run_quiet", "waits", queue="other")
    worker.kill()
    probe.start(queues=["third"])
    wait_until(
        lambda: not any(".pidbox" in name and worker.name in name for name in queues(probe.url)), SWEPT_S, "its other"
    )
    assert {"celery", "other"} <= queues(probe.url)
    assert rows_of(probe.url, "other") == 1


# -- not gone


def frozen_for(process: Any, seconds: float, check: Callable[[], object]) -> None:
    """Stop a process as a debugger or a suspended machine does, and let it go on."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        end = time.monotonic() + seconds
        wait_until(lambda: (check(), time.monotonic() >= end)[1], seconds + DEADLINE_S, "the freeze to end", 0.5)
    finally:
        os.kill(process.pid, signal.SIGCONT)


def hears(probe: Probe, process: Any) -> None:
    """It hears of a task that runs now."""

    def heard() -> bool:
        result = probe.send("echo", 1)
        result.get(timeout=DEADLINE_S)
        return result.id in process.log.read_text()

    wait_until(heard, DEADLINE_S, f"an event: {process.log.read_text()[-2000:]}", 0.5)


def test_a_frozen_program_keeps_its_queue(probe: Probe, listen: Any) -> None:
    """For four leases and all expiries (both shorter here): its session shows that it lives."""
    probe.start(args=["-E"], env={"PROBE_LEASE_S": str(LEASE_S)})
    process, queue = listen(event_queue_expires=3)
    hears(probe, process)

    def stays() -> None:
        assert queue in queues(probe.url)

    frozen_for(process, 4 * LEASE_S, stays)
    hears(probe, process)
    assert queues_of(probe.url, process.pid) == {queue}
    assert process.poll() is None


def test_a_program_that_lost_its_connections_comes_back(probe: Probe, listen: Any) -> None:
    probe.start(args=["-E"])
    process, queue = listen()
    hears(probe, process)
    for pid in rows(
        probe.url,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = ''"
        " AND pid <> pg_backend_pid()",
    ):
        run(probe.url, f"SELECT pg_terminate_backend({pid[0]})")
    hears(probe, process)
    assert queues_of(probe.url, process.pid) == {queue}
    assert process.poll() is None
