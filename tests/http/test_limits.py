"""Strangers, slow clients and many of them: what they cannot take from everybody else."""

from __future__ import annotations

import http.client
import json
import logging
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

from app.http.hosts import AllowedHosts
from app.observability.repeated import SHOWN, Repeated
from environment.testkit.sockets import is_closed
from environment.waiting import wait_until
from tests.http.front import DEADLINE_S, A, B, Front
from tests.http.test_events import event, finish

PING = "/v1/tasks/app.tasks.housekeeping.ping"
WRONG_KEY = f"Bearer sk_{'0' * 32}_{'x' * 43}"


@pytest.fixture
def opened() -> Iterator[Callable[..., socket.socket]]:
    """``opened(front)``: a connection; closed at the end."""
    with ExitStack() as stack:

        def connect(front: Front, address: str = "127.0.0.1") -> socket.socket:
            made = socket.create_connection(("127.0.0.1", front.port), timeout=DEADLINE_S, source_address=(address, 0))
            return stack.enter_context(made)

        yield connect


def head(front: Front, length: int, *, key: str | None = None, more: str = "") -> bytes:
    """The beginning of a submission; the body is to come."""
    authorization = key if key is not None else f"Bearer {front.key()}"
    return (
        f"POST {PING} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n{more}"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def answered(connection: socket.socket) -> int:
    """The status of the answer, which ends with the connection; 0 where there is none."""
    text = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            text += piece
    return int(text[9:12] or b"0")


# -- the key comes before the body


@pytest.mark.parametrize("key", ["Bearer nonsense", WRONG_KEY, "Basic YTpi"])
def test_who_has_no_key_is_not_asked_for_a_body(front: Front, opened: Any, key: str) -> None:
    connection = opened(front)
    connection.sendall(head(front, 1_000_000, key=key))
    assert answered(connection) == 401


@pytest.mark.parametrize("path", [PING, "/v1/tasks/nothing", "/v1/tasks"])
def test_who_has_no_key_is_told_so_although_he_has_sent_a_body(front: Front, path: str) -> None:
    body = json.dumps({f"{n}": [] for n in range(90_000)}).encode()
    answer = front.request("POST", path, body, tenant=None, headers={"Authorization": WRONG_KEY})
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert answer.headers["connection"] == "close"


def test_who_asks_whether_to_send_is_told_not_to(front: Front, opened: Any) -> None:
    connection = opened(front)
    connection.sendall(head(front, 1_000, key=WRONG_KEY, more="Expect: 100-continue\r\n"))
    assert answered(connection) == 401
    connection = opened(front)
    connection.sendall(head(front, 2, more="Expect: 100-continue\r\nConnection: close\r\n"))
    assert connection.recv(1024).startswith(b"HTTP/1.1 100")
    connection.sendall(b"{}")
    assert answered(connection) == 202


def test_the_form_of_the_page_is_short(front: Front) -> None:
    assert front.request("POST", "/console/sign-in", b"key=" + b"x" * 5_000, tenant=None).code == "too-long"


# -- bodies


def test_a_body_that_does_not_come_ends_its_connection(make_front: Any, database: Any, opened: Any) -> None:
    front = make_front(database.url, WEB_BODY_TIMEOUT="0.3")
    connection = opened(front)
    connection.sendall(head(front, 50) + b"{")
    assert answered(connection) == 408


def test_a_body_that_says_that_it_is_too_long_is_not_waited_for(front: Front, opened: Any) -> None:
    for length in (1_048_577, 99_999_999_999):
        connection = opened(front)
        connection.sendall(head(front, length))
        assert connection.recv(1024).startswith(b"HTTP/1.1 413")


def test_half_of_many_bodies_is_bounded_for_a_tenant_and_for_all(make_front: Any, database: Any, opened: Any) -> None:
    """The least that can be set is room for 16 bodies that have just begun."""
    front = make_front(
        database.url, WEB_MAX_BODY_BYTES_IN_FLIGHT="2097152", WEB_MAX_BODY_BYTES_IN_FLIGHT_PER_TENANT="1048576"
    )
    keys = {tenant: f"Bearer {front.key(tenant)}" for tenant in (A, B)}

    def begin(key: str) -> socket.socket:
        connection: socket.socket = opened(front)
        connection.sendall(head(front, 500_000, key=key, more="Expect: 100-continue\r\n"))
        return connection

    def begun(connection: socket.socket) -> str:
        return connection.recv(1024)[9:12].decode()

    held = [begin(keys[A]) for _ in range(16)]
    assert [begun(one) for one in held] == ["100"] * 16
    assert begun(begin(keys[A])) == "429"
    assert front.submit(tenant=A).code == "tenant-bodies-full"
    assert front.submit(tenant=B).status == 202
    others = [begin(keys[B]) for _ in range(16)]
    assert [begun(one) for one in others] == ["100"] * 16
    assert front.submit(tenant=A).code == "bodies-full"
    assert front.get("/livez").status == 200
    for one in held + others:
        one.close()
    wait_until(lambda: front.submit(tenant=A).status == 202, DEADLINE_S, "the room to be free again")


# -- what is on the wire


@pytest.mark.parametrize(
    "lines",
    [
        "HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked",
        "HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 100",
        "HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked",
    ],
)
@pytest.mark.parametrize("request_line", [f"POST {PING}", "GET /livez"])
def test_two_lengths_are_refused_and_end_the_connection(
    front: Front, opened: Any, lines: str, request_line: str
) -> None:
    connection = opened(front)
    hidden = "0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection.sendall(f"{request_line} {lines}\r\nAuthorization: Bearer {front.key()}\r\n\r\n{hidden}".encode())
    text = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            text += piece
    assert text.startswith(b"HTTP/1.1 400")
    assert text.count(b"HTTP/1.1 ") == 1, "what was hidden in the body was answered"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("10.1.2.3", 200),
        (socket.gethostname(), 200),
        ("api.example.com", 200),
        ("a.b.inner.example.com.", 200),
        ("inner.example.com", 421),
        ("example.com", 421),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("", 421),
    ],
)
def test_only_its_own_names_are_served(named: Front, host: str, status: int) -> None:
    answer = named.get("/livez", tenant=None, headers={"Host": host})
    assert answer.status == status
    assert status == 200 or answer.code == "other-host"


@pytest.fixture(scope="module")
def named(module_database: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    names = "localhost,api.example.com,*.inner.example.com"
    front = Front(module_database.url, tmp_path_factory.mktemp("named"), {"WEB_ALLOWED_HOSTS": names})
    with closing(front.start()):
        yield front


def test_any_name_where_that_is_wanted() -> None:
    assert "evil.example" in AllowedHosts({"*"})
    assert "evil.example" not in AllowedHosts(())


def chunked(size: int, count: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b" " * size) * count


def test_a_body_in_chunks_is_taken_unless_they_are_crumbs(front: Front, opened: Any) -> None:
    """Each chunk is an event of its own: a MB of one byte each would keep the loop for 15 s."""
    begin = head(front, 0).replace(b"Content-Length: 0", b"Connection: close\r\nTransfer-Encoding: chunked")
    whole = opened(front)
    whole.sendall(begin + chunked(1_000, 900) + b"2\r\n{}\r\n0\r\n\r\n")
    assert answered(whole) == 202
    crumbs = opened(front)
    crumbs.sendall(begin)

    def is_cut_off() -> bool:
        with suppress(OSError):
            crumbs.sendall(chunked(1, 1_000))
        return is_closed(crumbs)

    wait_until(is_cut_off, DEADLINE_S, "the connection to be cut off")


@pytest.mark.parametrize("request_line", ["POST /health", "GET /livez", "PUT /nowhere", "GET /v1/tasks"])
def test_a_body_that_nobody_wants_ends_its_connection(front: Front, opened: Any, request_line: str) -> None:
    connection = opened(front)
    connection.sendall(head(front, 100_000).replace(f"POST {PING}".encode(), request_line.encode()))
    assert answered(connection) in (200, 404, 405)


# -- connections


def test_headers_that_do_not_end_do(make_front: Any, database: Any, opened: Any) -> None:
    front = make_front(database.url, WEB_HEADER_TIMEOUT="0.5")
    silent, slow, second = opened(front), opened(front), opened(front)
    second.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    slow.sendall(b"GET /livez HTTP/1.1\r\n")

    def trickle() -> bool:
        with suppress(OSError):
            slow.sendall(b"X")
            second.sendall(b"X")  # of the request after the one that is answered
        return is_closed(silent) and is_closed(slow)

    wait_until(trickle, DEADLINE_S, "the slow connections to be closed")
    wait_until(lambda: trickle() and is_closed(second), DEADLINE_S, "the connection that was kept to be closed")


def test_who_asks_again_in_time_keeps_his_connection(make_front: Any, database: Any) -> None:
    front = make_front(database.url, WEB_HEADER_TIMEOUT="2")
    with closing(http.client.HTTPConnection("127.0.0.1", front.port, timeout=DEADLINE_S)) as scraper:
        scraper.connect()
        first = scraper.sock
        slow = socket.create_connection(("127.0.0.1", front.port))
        asked = 0

        def ask() -> bool:
            nonlocal asked
            scraper.request("GET", "/health")
            assert scraper.getresponse().read()
            asked += 1
            return is_closed(slow)

        wait_until(ask, DEADLINE_S, "longer than headers may take")
        slow.close()
        assert asked > 1
        assert scraper.sock is first


def test_a_new_connection_finds_room(make_front: Any, database: Any, opened: Any) -> None:
    front = make_front(database.url, WEB_MAX_CONNECTIONS="4", WEB_HEARTBEAT="0.2")
    task_id = front.submit().json["task_id"]
    with front.events(task_id) as stream:
        assert event(stream)["id"] == "PENDING"
        crowd = [opened(front) for _ in range(40)]
        for number in range(3):
            assert front.get("/livez").status == 200, number
        wait_until(lambda: sum(is_closed(one) for one in crowd) >= 36, DEADLINE_S, "the oldest to be closed")
        finish(front, task_id)
        assert event(stream)["id"].startswith("SUCCESS"), "a stream that is read made room"
    assert front.log_text().count("to make room") <= 2 * SHOWN


def test_where_all_are_at_work_a_new_one_is_told_so(make_front: Any, database: Any, opened: Any) -> None:
    front = make_front(database.url, WEB_MAX_CONNECTIONS="2", WEB_HEARTBEAT="0.2")
    task_id = front.submit().json["task_id"]
    with front.events(task_id) as first, front.events(task_id) as second:
        assert event(first)["id"] == event(second)["id"] == "PENDING"
        assert answered(opened(front)) == 503
        assert ":" in first.readline().decode()
    wait_until(lambda: answered_livez(front) == 200, DEADLINE_S, "room for a new one")


def answered_livez(front: Front) -> int:
    with suppress(OSError, http.client.HTTPException):
        return front.get("/livez", tenant=None).status
    return 0


def test_one_address_cannot_take_all_connections(make_front: Any, database: Any, opened: Any) -> None:
    front = make_front(database.url, WEB_MAX_CONNECTIONS_PER_ADDRESS="3")
    other = [opened(front, "127.0.0.2") for _ in range(2)]
    crowd = [opened(front) for _ in range(10)]
    wait_until(lambda: sum(is_closed(one) for one in crowd) == 7, DEADLINE_S, "all but three to be closed")
    assert not any(is_closed(one) for one in other)


def test_no_descriptors_are_no_flood_of_lines(make_front: Any, database: Any, opened: Any) -> None:
    front = make_front(database.url)
    front.get("/livez")
    assert front.process is not None
    before = resource.prlimit(front.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(front.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    crowd = [opened(front) for _ in range(100)]
    wait_until(lambda: "out of system resource" in front.log_text(), DEADLINE_S, "a line about it")
    resource.prlimit(front.process.pid, resource.RLIMIT_NOFILE, before)
    for one in crowd:
        one.close()
    wait_until(lambda: answered_livez(front) == 200, DEADLINE_S, "the server to go on")
    assert front.log_text().count("out of system resource") < 5 * SHOWN


def test_few_descriptors_are_fewer_connections(make_front: Any, database: Any, opened: Any) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        front = make_front(database.url)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    crowd = [opened(front) for _ in range(300)]
    assert front.get("/livez").status == 200
    assert front.submit().status == 202
    wait_until(lambda: sum(is_closed(one) for one in crowd) >= 200, DEADLINE_S, "most to be closed")
    assert "ulimit -n" in front.log_text()


def test_who_reads_nothing_is_cut_off(make_front: Any, database: Any) -> None:
    front = make_front(database.url, WEB_WRITE_TIMEOUT="0.5")
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect(("127.0.0.1", front.port))
        deaf.settimeout(DEADLINE_S)
        deaf.setblocking(False)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"

        def is_cut_off() -> bool:
            with suppress(OSError):
                deaf.send(request * 100)
            state: int = struct.unpack("B", deaf.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1))[0]
            return state == 7  # TCP_CLOSE

        wait_until(is_cut_off, DEADLINE_S, "the connection to be cut off")


def test_a_line_that_comes_again_and_again_is_shown_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("app.observability.repeated.time.monotonic", lambda: now)
    seldom = Repeated()

    def shown(text: str) -> str | None:
        record = logging.LogRecord("x", logging.INFO, "x", 1, text, (), None)
        return record.msg if seldom.filter(record) else None

    assert [shown("again") for _ in range(100)].count("again") == SHOWN
    assert shown("else") == "else"
    now = 11.0
    assert shown("again") == f"again (and {100 - SHOWN} times more since the last of these lines)"
    assert shown("again") == "again"
