"""Who lives: what the server sees of a process counts for more than whether its Python could run."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from celery_postgres.errors import LeaseLost
from environment.testkit.client import Client
from environment.testkit.deadlines import RESCUE_S
from environment.testkit.probe import Probe, unique
from environment.testkit.tables import dead_letters, rows_of, run, scalar
from environment.waiting import wait_until

#: Shorter than in earnest, so that a test takes seconds: the lease, and how long a process may hold Python's lock.
LEASE_S, HELD_S = 6, 12

CONSUMER = "SELECT max(id) FROM kombu_consumer WHERE pid = :pid"
LOCKS = """
    SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()
"""


def workers(probe: Probe, pool: str, **options: Any) -> None:
    for _ in range(2):
        probe.start(pool=pool, env={"PROBE_LEASE_S": str(LEASE_S)}, ready=False, **options)
    for worker in probe.workers:
        worker.wait_ready()


@pytest.mark.parametrize("pool", ["solo", pytest.param("threads", marks=pytest.mark.long)])
def test_a_task_that_keeps_pythons_lock_runs_once(probe: Probe, pool: str) -> None:
    workers(probe, pool)
    tag = unique("held")
    probe.send("hold_lock", tag, HELD_S, ignore_result=True)
    probe.wait_for("end", tag, deadline_s=HELD_S + RESCUE_S)
    wait_until(lambda: rows_of(probe.url) == 0, RESCUE_S, "its acknowledgement")
    assert len(probe.notes("start", tag)) == 1
    assert "is dead" not in "".join(worker.log_text() for worker in probe.workers)


def test_a_process_that_stands_still_for_too_long_is_taken_for_dead(probe: Probe) -> None:
    """Its session lives as long as its kernel does; it may be stopped, or hang for ever."""
    workers(probe, "solo", conf={"broker_transport_options": {"unresponsive_timeout": LEASE_S + 3}})
    tag = unique("stopped")
    probe.send("run_late_quiet", tag, "gate")
    (note,) = probe.wait_for("start", tag)
    os.kill(note["pid"], signal.SIGSTOP)
    probe.wait_for("start", tag, 2, RESCUE_S)
    os.kill(note["pid"], signal.SIGCONT)
    probe.open("gate")
    probe.wait_for("end", tag, 2)
    wait_until(lambda: rows_of(probe.url) == 0, RESCUE_S, "its acknowledgement")
    assert dead_letters(probe.url) == 0


def test_whoever_takes_the_lock_of_a_dead_process_does_not_keep_it_alive(probe: Probe) -> None:
    """Its number is for everybody to see who may connect."""
    first = probe.start()
    tag = unique("held")
    probe.send("run_late_quiet", tag, "gate")
    probe.wait_for("start", tag)
    (key,) = [
        one
        for (one,) in _rows(
            probe.url,
            "SELECT classid::bigint << 32 | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
    ]
    with closing(psycopg2.connect(probe.url)) as squatter, squatter.cursor() as cursor:
        waiting = threading.Thread(target=cursor.execute, args=("SELECT pg_advisory_lock(%s)", [key]))
        waiting.start()
        wait_until(
            lambda: scalar(probe.url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"),
            RESCUE_S,
            "the squatter to wait",
        )
        first.kill()
        waiting.join(RESCUE_S)
        probe.start()
        probe.open("gate")
        probe.wait_for("end", tag, deadline_s=RESCUE_S)
        # The squatter's, and that of the other worker, whose statements have some for a moment.
        wait_until(lambda: scalar(probe.url, LOCKS) == 2, RESCUE_S, "two locks")


@pytest.mark.parametrize("given", [29, 0, -1, "600", None, True, float("nan")])
def test_an_unresponsive_timeout_below_the_lease_is_refused(client: Client, given: Any, queue: str) -> None:
    from kombu import Connection

    url = client.connection.as_uri(include_password=True)
    with (
        Connection(url, transport_options={"unresponsive_timeout": given}) as connection,
        pytest.raises(ValueError, match="unresponsive_timeout is a number of seconds, from 30 to"),
    ):
        connection.SimpleQueue(queue).get(block=False)


# -- one id, one process


def test_two_processes_with_one_id_begin_anew(module_database: Any, client: Client, queue: str) -> None:
    """As after the copy of a machine that runs: both raise one counter."""
    inbox = client.consume(queue)
    heartbeat = inbox.channel.buffer.heartbeat  # type: ignore[attr-defined]
    first = heartbeat.consumer
    run(module_database.url, f"UPDATE kombu_consumer SET beat = beat + 1 WHERE id = {first}")  # noqa: S608
    wait_until(lambda: heartbeat.consumer not in (0, first), RESCUE_S, "another id")
    client.publish("x", queue)
    assert inbox.take_acked() == ["x"]


@pytest.mark.parametrize("noticed", [False, True], ids=["its heartbeat has not noticed", "its heartbeat has noticed"])
def test_who_slept_for_long_asks_as_if_nothing_had_been(probe: Probe, noticed: bool) -> None:
    """A suspended laptop: others have removed its consumer, and the queue of its replies."""
    worker = probe.start(pool="threads")
    assert probe.inspect(worker, "ping") == {"ok": "pong"}
    first = scalar(probe.url, CONSUMER, pid=os.getpid())
    run(probe.url, f"DELETE FROM kombu_consumer WHERE id = {first}")  # noqa: S608
    if noticed:
        wait_until(lambda: scalar(probe.url, CONSUMER, pid=os.getpid()), RESCUE_S, "it to register again")
    assert probe.inspect(worker, "ping") == {"ok": "pong"}
    assert scalar(probe.url, CONSUMER, pid=os.getpid()) != first


def test_who_slept_with_nothing_in_hand_goes_on_consuming(module_database: Any, client: Client, queue: str) -> None:
    inbox = client.consume(queue)
    first = inbox.channel.buffer.heartbeat.consumer  # type: ignore[attr-defined]
    run(module_database.url, f"DELETE FROM kombu_consumer WHERE id = {first}")  # noqa: S608
    client.publish("x", queue)
    assert inbox.take_acked(deadline_s=RESCUE_S) == ["x"]

    def is_gone() -> bool:
        inbox.drain(0.01)  # it comes again if it was claimed before the heartbeat has noticed
        for message in inbox.messages:
            if not message.acknowledged:
                message.ack()
        return rows_of(module_database.url, queue) == 0

    wait_until(is_gone, RESCUE_S, "its acknowledgement")


def test_who_slept_with_a_message_in_hand_is_told(module_database: Any, client: Client, queue: str) -> None:
    client.publish("x", queue)
    inbox = client.consume(queue)
    inbox.take()
    first = inbox.channel.buffer.heartbeat.consumer  # type: ignore[attr-defined]
    run(module_database.url, f"DELETE FROM kombu_consumer WHERE id = {first}")  # noqa: S608
    with pytest.raises(LeaseLost, match="its messages were given to others"):
        inbox.take_until(lambda: False, RESCUE_S)  # it may even come again before


def _rows(url: str, statement: str) -> list[Any]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())
