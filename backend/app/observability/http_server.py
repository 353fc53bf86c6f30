"""A small HTTP server for probes and scrapes, in threads of its own."""

from __future__ import annotations

import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from weakref import WeakSet

logger = logging.getLogger(__name__)

#: Seconds that a client may take to send its request or to read the answer.
SOCKET_TIMEOUT_S = 5.0

_servers: WeakSet[PageServer] = WeakSet()


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


#: Gives a page for a request's headers, whose names are in lower case.
MakePage = Callable[[Mapping[str, str]], Page]


def json_page(status: int, content: Mapping[str, Any]) -> Page:
    """`content` as JSON."""
    return Page(status, "application/json", json.dumps(content).encode() + b"\n")


class PageServer(ThreadingHTTPServer):
    """Serves `pages` (path to maker) to GET and HEAD; everything else is 404 or 501.

    Bound when it is made; served from `start` to `close`. Children that are forked meanwhile close what they
    inherited, so that the port is free when this process is gone and no client waits for an end of file.

    Raises:
        OSError: the address cannot be bound.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, pages: Mapping[str, MakePage]) -> None:
        self.pages = dict(pages)
        self._open: set[socket.socket] = set()
        (self.address_family, *_, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        super().__init__((str(address[0]), int(address[1])), _Handler)
        _servers.add(self)

    def server_bind(self) -> None:
        # HTTPServer.server_bind asks DNS for the name of the address, which nobody needs.
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
        """Stop serving and give the port back."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a client of the HTTP server went away", exc_info=True)

    def leave_to_parent(self) -> None:
        """In a forked child: close the inherited descriptors, without a word to anybody's peer."""
        for inherited in (self.socket, *self._open):
            with suppress(OSError):
                inherited.close()
        self._open.clear()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = SOCKET_TIMEOUT_S
    server_version, sys_version = "worker", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a probe every few seconds is no news."""

    def _answer(self, *, with_body: bool) -> None:
        make = self.server.pages.get(self.path.partition("?")[0])
        try:
            page = (
                json_page(404, {"error": "no such page"})
                if make is None
                else make({name.lower(): value for name, value in self.headers.items()})
            )
        except Exception:
            logger.exception("a page of the HTTP server failed")
            page = json_page(500, {"error": "this page failed; the log says why"})
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
