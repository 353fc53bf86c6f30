"""Notifications by the million, of whoever may connect: a worker goes on, and keeps none of them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from celery_postgres.database.notifications import Notifications
from environment.testkit.probe import DEADLINE_S, Probe, ProbeWorker, unique
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

#: 16 MB a statement, to each of the first two numbers.
FLOOD = "count(pg_notify({}, repeat('x', 4000) || i)) FROM generate_series(1, 2) AS n, generate_series(1, 2000) AS i"
BEATS = 8


@contextmanager
def flood(url: str, statement: str) -> Iterator[None]:
    """From three sessions, as fast as the server takes it."""
    stop = threading.Event()

    def send() -> None:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not stop.is_set():
                cursor.execute(statement)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def stranger(plain_database: Any) -> Iterator[str]:
    """The URL of a role that may connect and nothing else."""
    if plain_database.superuser_url is None:
        pytest.skip("the server of DATABASE_URL is not ours: nobody here may make roles")
    name = f"stranger_{secrets.token_hex(4)}"
    url = plain_database.superuser_url
    run(url, f"CREATE ROLE {name}")
    try:
        yield f"{url}{'&' if '?' in url else '?'}options=-c%20role%3D{name}"
    finally:
        run(url, f"DROP ROLE {name}")


def beats(probe: Probe) -> int:
    return int(scalar(probe.url, "SELECT max(beat) FROM kombu_consumer"))


def memory_kb(worker: ProbeWorker) -> int:
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def goes_on(probe: Probe, worker: ProbeWorker) -> None:
    """It beats, runs what is sent, and grows by less than what two statements of a flood bring."""
    before, memory = beats(probe), memory_kb(worker)
    wait_until(lambda: beats(probe) >= before + BEATS, DEADLINE_S, "the heartbeat to go on")
    assert probe.send("echo", "through the flood").get(timeout=DEADLINE_S) == "through the flood"
    assert memory_kb(worker) - memory < 30_000


def test_a_role_without_any_grant_reaches_nobody(probe: Probe, stranger: str) -> None:
    worker = probe.start()
    assert probe.send("echo", "warm").get(timeout=DEADLINE_S) == "warm"
    names = ("'kombu_' || n", "'celery_result_' || n")
    with flood(stranger, f"SELECT {', '.join(f'(SELECT {FLOOD.format(name)})' for name in names)}"):
        goes_on(probe, worker)
    assert "notifications in a second" not in worker.log_text()


def test_who_knows_a_channel_floods_its_listener_and_nothing_else(probe: Probe) -> None:
    """Whoever may publish may read which consumers there are."""
    worker = probe.start()
    assert probe.send("echo", "warm").get(timeout=DEADLINE_S) == "warm"
    channel = "'kombu_' || c.id"
    with flood(probe.url, f"SELECT {FLOOD.format(channel)}, kombu_consumer AS c"):
        wait_until(lambda: "notifications in a second" in worker.log_text(), DEADLINE_S, "it to notice the flood")
        goes_on(probe, worker)
    # And then it listens again.
    tag = unique("after")
    probe.send("run_quiet", tag)
    probe.wait_for("end", tag)


def test_a_listener_that_was_flooded_listens_again(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery_postgres.database.pool import Sessions

    monkeypatch.setattr(Notifications, "FLOODED_S", 0.2)
    heard: list[int] = []
    notifications = Notifications(Sessions(probe.url), lambda: heard.append(1))
    notifications.listen("kombu_9")
    try:
        for _ in range(2):
            wait_until(lambda: notifications.arrive, DEADLINE_S, "it to listen")
            run(probe.url, "SELECT count(pg_notify('kombu_9', i::text)) FROM generate_series(1, 2001) AS i")
            wait_until(lambda: not notifications.arrive, DEADLINE_S, "it to be flooded")
        wait_until(lambda: notifications.arrive, DEADLINE_S, "it to listen")
        del heard[:]
        run(probe.url, "NOTIFY kombu_9")
        wait_until(lambda: heard, DEADLINE_S, "it to hear")
    finally:
        notifications.stop()


def test_nobody_can_guess_the_channels(probe: Probe) -> None:
    for _ in range(2):
        probe.start(ready=False)
    for worker in probe.workers:
        worker.wait_ready()
    result = probe.send("run_quiet", unique("waited"), "never", ignore_result=False)
    waiting = threading.Thread(target=lambda: result.get(timeout=DEADLINE_S, propagate=False))
    waiting.start()
    wait_until(lambda: scalar(probe.url, "SELECT count(*) FROM celery_waiter"), DEADLINE_S, "somebody to wait")
    listener = scalar(probe.url, "SELECT listener FROM celery_waiter")
    consumers = scalar(probe.url, "SELECT array_agg(id) FROM kombu_consumer")
    probe.open("never")
    waiting.join()
    assert len(set(consumers)) == len(consumers)
    assert all(1 << 52 <= one < 1 << 53 for one in consumers)
    assert listener > 1 << 40
