"""A small HTTP server for probes and scrapes, in its own threads.

Each connection is a thread, and their number is small. Each must send its request by a deadline. Where there is no room
for a new connection, the oldest one that has not sent its request is closed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from weakref import WeakSet

from app.observability.repeated import Repeated

logger = logging.getLogger(__name__)
logger.addFilter(Repeated())

#: Bytes of a request with its headers. The standard library accepts 100 headers of 64 kB.
LONGEST_REQUEST = 32_768
#: Seconds that each connection has to send its request before it may be closed to make room. A client that sends its
#: request at once is served, however many others connect; those wait in the socket's queue meanwhile.
GRACE_S = 0.1
#: The errors of `accept` when the process, or the machine, has no more descriptors or memory; and the seconds until the
#: next attempt: the socket stays ready, and the thread would do nothing else.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_S = 0.2

_servers: WeakSet[PageServer] = WeakSet()


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


#: Makes a page from a request's headers, whose names are in lower case.
MakePage = Callable[[Mapping[str, str]], Page]


def json_page(status: int, content: Mapping[str, Any]) -> Page:
    """`content` as JSON."""
    return Page(status, "application/json", json.dumps(content).encode() + b"\n")


class PageServer(ThreadingHTTPServer):
    """Serves `pages` (path to maker) to GET and HEAD; everything else is 404 or 501.

    It binds when it is created, and serves from `start` to `close`. Children that are forked meanwhile close the
    descriptors that they inherit, so that the port is free when this process is gone and no client waits for an end of
    file.

    Args:
        most: connections at the same time; never more than a quarter of the process's limit of descriptors.
        timeout_s: seconds that a client may take to send its request, and to read the answer.

    Raises:
        OSError: the address cannot be bound.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, pages: Mapping[str, MakePage], *, most: int, timeout_s: float) -> None:
        self.pages = dict(pages)
        self.timeout_s = timeout_s
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = most if files == resource.RLIM_INFINITY else max(1, min(most, files // 4))
        self._open: set[socket.socket] = set()
        #: Connections whose request has not arrived, and since when they wait; the oldest first.
        self._awaited: dict[socket.socket, float] = {}
        (self.address_family, *_, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        super().__init__((str(address[0]), int(address[1])), _Handler)
        _servers.add(self)

    def server_bind(self) -> None:
        # HTTPServer.server_bind asks DNS for the name of the address, which is not needed.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where it listens; no slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def host(self) -> str:
        """The address that it is bound to."""
        return str(self.server_address[0])

    @property
    def port(self) -> int:
        """The port that it is bound to."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serve, in a thread."""
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        """Stop serving and release the port."""
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                logger.warning("the HTTP server cannot accept a connection: %s", os.strerror(error.errno))
                time.sleep(_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= self._most:
            logger.warning("the HTTP server closes a connection to make room: it serves %d at most", self._most)
            if not self._make_room():
                super().shutdown_request(request)
                return
        self._open.add(request)
        self._awaited[request] = time.monotonic()
        super().process_request(request, client_address)

    def _make_room(self) -> bool:
        while len(self._open) >= self._most:
            oldest = list(self._awaited.items())[:1]
            if not oldest:
                return False
            ((request, since),) = oldest
            grace = since + GRACE_S - time.monotonic()
            if grace <= 0:
                self._cut_off(request)
                # A connection that was shut down ends in a moment.
                return len(self._open) < 2 * self._most
            time.sleep(min(grace, 0.01))
        return True

    def service_actions(self) -> None:
        """Called by `serve_forever` at least twice a second."""
        super().service_actions()
        now = time.monotonic()
        for request, since in list(self._awaited.items()):
            if now - since >= self.timeout_s:
                self._cut_off(request)

    def has_come(self, request: socket.socket) -> bool:
        """The whole request has arrived; return whether it is still to be answered."""
        return self._awaited.pop(request, None) is not None

    def _cut_off(self, request: socket.socket) -> None:
        self._awaited.pop(request, None)
        with suppress(OSError):  # the client has left
            request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        self._awaited.pop(request, None)
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a client of the HTTP server went away", exc_info=True)

    def leave_to_parent(self) -> None:
        """In a forked child: close the inherited descriptors without sending anything to the clients."""
        for inherited in (self.socket, *self._open):
            with suppress(OSError):
                inherited.close()
        self._open.clear()


class _Lines:
    """The lines of a file, up to `LONGEST_REQUEST` bytes of them."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = LONGEST_REQUEST
        self.close = file.close

    def readline(self, size: int) -> bytes:
        line: bytes = self._file.readline(min(size, self._left))
        self._left -= len(line)
        if not self._left:
            raise ConnectionError("the request is too long")
        return line


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "worker", ""

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.timeout_s)
        self.rfile = _Lines(self.rfile)  # type: ignore[assignment]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a probe comes every few seconds."""

    def _answer(self, *, with_body: bool) -> None:
        if not self.server.has_come(self.connection):
            return
        make = self.server.pages.get(self.path.partition("?")[0])
        try:
            page = (
                json_page(404, {"error": "no such page"})
                if make is None
                else make({name.lower(): value for name, value in self.headers.items()})
            )
        except Exception:
            logger.exception("a page of the HTTP server failed")
            page = json_page(500, {"error": "this page failed; the log has the reason"})
        self.send_response(page.status)
        for name, value in (
            ("Content-Type", page.content_type),
            ("Content-Length", str(len(page.body))),
            ("Cache-Control", "no-store"),
            *page.headers,
        ):
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(page.body)


def _leave_servers_to_parent() -> None:
    for server in list(_servers):
        server.leave_to_parent()


os.register_at_fork(after_in_child=_leave_servers_to_parent)
