"""The worker's HTTP port under clients that are slow, or many."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

from app.observability.http_server import Page, PageServer
from environment.testkit.databases import run
from environment.testkit.sockets import is_closed
from environment.waiting import wait_until

DEADLINE_S = 30
MakeServer = Callable[..., PageServer]


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    """``make_server(most=…, timeout_s=…)``: one that serves /page."""
    with ExitStack() as stack:

        def make(*, most: int = 4, timeout_s: float = 30.0, make_page: Any = None) -> PageServer:
            pages = {"/page": make_page or (lambda _: Page(200, "text/plain", b"well"))}
            server = PageServer("127.0.0.1", 0, pages, most=most, timeout_s=timeout_s)
            server.start()
            stack.callback(server.close)
            return server

        yield make


@pytest.fixture
def opened() -> Iterator[Callable[[int], socket.socket]]:
    """``opened(port)``: a connection; closed at the end."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))


def get(server: PageServer) -> bytes:
    with urllib.request.urlopen(f"{server.url}/page", timeout=DEADLINE_S) as answer:  # noqa: S310
        return bytes(answer.read())


def test_a_request_that_does_not_end_is_cut_off(make_server: MakeServer, opened: Any) -> None:
    """Also where a byte comes each moment, so that no wait for one is long."""
    made: list[int] = []
    server = make_server(timeout_s=0.5, make_page=lambda _: made.append(1) or Page(200, "text/plain", b"well"))
    slow, silent = opened(server.port), opened(server.port)
    slow.sendall(b"GET /page HTTP/1.1\r\n")

    def trickle() -> bool:
        with suppress(OSError):
            slow.send(b"X")
        return is_closed(slow) and is_closed(silent)

    wait_until(trickle, DEADLINE_S, "both to be cut off")
    assert made == [], "a page was made for a request that was cut off"
    assert get(server) == b"well"


def test_there_is_room_for_a_new_connection_and_few_threads(make_server: MakeServer, opened: Any) -> None:
    server = make_server(most=4)
    before = threading.active_count()
    crowd = [opened(server.port) for _ in range(100)]
    for _ in range(3):
        assert get(server) == b"well"
    assert threading.active_count() - before <= 8
    wait_until(lambda: sum(is_closed(one) for one in crowd) >= 96, DEADLINE_S, "the oldest to be closed")


def test_a_request_that_is_being_answered_makes_no_room(make_server: MakeServer, opened: Any) -> None:
    go_on = threading.Event()
    begun = threading.Semaphore(0)

    def page(_: Any) -> Page:
        begun.release()
        assert go_on.wait(DEADLINE_S)
        return Page(200, "text/plain", b"well")

    server = make_server(most=2, make_page=page)
    answers: list[bytes] = []
    scrapers = [threading.Thread(target=lambda: answers.append(get(server))) for _ in range(2)]
    for one in scrapers:
        one.start()
    for _ in scrapers:
        assert begun.acquire(timeout=DEADLINE_S)
    refused = opened(server.port)
    wait_until(lambda: is_closed(refused), DEADLINE_S, "a third to be refused")
    go_on.set()
    for one in scrapers:
        one.join(DEADLINE_S)
    assert answers == [b"well"] * 2


def test_headers_without_end_are_not_kept(make_server: MakeServer, opened: Any) -> None:
    server = make_server()
    connection = opened(server.port)
    with suppress(OSError):
        connection.sendall(b"GET /page HTTP/1.1\r\n" + b"X-A: " + b"a" * 40_000 + b"\r\n\r\n")
    answer = b""
    with suppress(ConnectionResetError):
        answer = connection.recv(100)
    assert answer == b""
    assert get(server) == b"well"


def test_no_descriptors_do_not_make_it_spin(make_server: MakeServer, caplog: pytest.LogCaptureFixture) -> None:
    server = make_server()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(socket.socket())) for _ in range(20)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            for one in clients:
                one.connect(("127.0.0.1", server.port))
            wait_until(lambda: "cannot accept" in caplog.text, DEADLINE_S, "a line about it")
            begun, used = time.monotonic(), time.process_time()
            wait_until(lambda: time.monotonic() - begun > 1, DEADLINE_S, "a second")
            assert time.process_time() - used < 0.5
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caplog.text.count("cannot accept") < 20
    assert get(server) == b"well"


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_with_few_descriptors_outlives_a_flood(
    pool: str, database: Any, start_worker: Any, observe: Any, worker_options: Any, client_of: Any, opened: Any
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        worker = start_worker(database.url, pool=pool, **worker_options())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    observed = observe(worker)
    crowd = [opened(worker.info.metrics_port) for _ in range(400)]
    for one in crowd:
        with suppress(OSError):
            one.sendall(b"G")
    assert observed.status("/livez") == 200
    assert len(os.listdir(f"/proc/{worker.pid}/task")) < 120
    # Everything that needs a descriptor still has one: a new connection to the database, the log, a task.
    run(
        database.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )
    with client_of(database.url) as app:
        assert app.send_task("app.tasks.housekeeping.ping").get(timeout=60)
    assert worker.process.poll() is None
