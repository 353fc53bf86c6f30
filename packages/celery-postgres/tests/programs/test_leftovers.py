"""What programs leave behind that are killed while they listen to events or wait for a reply, and what they do not."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Queue

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
        wait_until(lambda: any(word in name for name in queues_of(probe.url, process.pid)), DEADLINE_S, "it to consume")
        (queue,) = queues_of(probe.url, process.pid)
        return process, queue

    return begin


# -- gone


@pytest.mark.parametrize(
    ("program", "word"), [(RECEIVER, "celeryev."), (QUESTION, "reply.celery.pidbox")], ids=["events", "a reply"]
)
@pytest.mark.parametrize("expires", [True, False], ids=["with an expiry", "without an expiry"])
def test_the_queue_of_a_killed_program_goes(probe: Probe, listen: Any, program: str, word: str, expires: bool) -> None:
    probe.start()
    settings = {} if expires else {"event_queue_expires": None, "control_queue_expires": None}
    process, queue = listen(program, word, **settings)
    process.kill()
    process.wait()
    wait_until(lambda: queue not in queues(probe.url), SWEPT_S, f"{queue} to go")
    assert scalar(probe.url, "SELECT count(*) FROM kombu_binding WHERE routing_key = :queue", queue=queue) == 0


def test_the_queue_of_a_program_that_was_killed_before_it_consumed_goes(probe: Probe, start: Start, mine: Any) -> None:
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


def test_a_program_that_ends_without_closing_its_connection_leaves_nothing(probe: Probe, listen: Any) -> None:
    """As Flower does, whose thread for events is a daemon. No other consumer lives that would clean after it."""
    program = (
        f"import signal, sys, threading\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprogram = {RECEIVER!r}"
    )
    program += "\nthreading.Thread(target=exec, args=(program,), daemon=True).start()\nthreading.Event().wait(300)"
    process, queue = listen(program)
    process.terminate()
    assert process.wait(DEADLINE_S) == 0
    assert queue not in queues(probe.url)


# -- not gone


@pytest.mark.parametrize("kind", [{"expires": 3600}, {"auto_delete": True}, {"exclusive": True, "expires": 3600}])
def test_the_time_of_a_queue_counts_from_the_end_of_its_consumer(
    plain_database: Any, start: Start, mine: Any, installed: None, kind: dict[str, Any]
) -> None:
    """It was consumed for longer than its expiry when its consumer was killed: what waits in it stays for the time that
    its declaration promises. An auto-delete queue stays for 10 s, in which the consumer can come back."""
    url = plain_database.url
    program = f"""
import mine
from kombu import Queue
with mine.app.connection_for_read() as connection:
    queue = Queue("jobs", **{kind!r})(connection.default_channel)
    with connection.Consumer(queue, callbacks=[lambda *_: None], prefetch_count=1):
        while True:
            connection.drain_events()
"""
    process = start(["-c", program], mine(broker_url=url, broker_transport=TRANSPORT))
    wait_until(lambda: queues_of(url, process.pid) == {"jobs"}, DEADLINE_S, "it to consume")
    run(url, "UPDATE kombu_queue SET used_at = now() - interval '2 hours' WHERE name = 'jobs'")
    client, watcher = Client(url), Client(url)
    try:
        for number in range(2):
            client.publish(number, exchange="", routing_key="jobs")  # one of them is claimed
        wait_until(lambda: client.count("jobs") == 1, DEADLINE_S, "a claim")
        inbox = watcher.consume("watched")  # runs maintenance
        process.kill()
        wait_until(lambda: (inbox.drain(0.1), not queues_of(url, process.pid))[1], DEADLINE_S, "its removal")
        assert scalar(url, "SELECT used_at > now() - interval '9 seconds' FROM kombu_queue WHERE name = 'jobs'")
        if "expires" in kind:
            client.declare(Queue("short", expires=0.1))
            wait_until(lambda: (inbox.drain(0.1), "short" not in queues(url))[1], SWEPT_S, "maintenance")
            assert rows_of(url, "jobs") == 2
    finally:
        client.close()
        watcher.close()


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
