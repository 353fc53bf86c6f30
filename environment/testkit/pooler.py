"""A small connection pooler with PgBouncer's modes ``transaction`` and ``session``."""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
from dataclasses import dataclass, field

import psycopg2.extensions

from environment.testkit.protocol_server import IDLE, ProtocolServer, message, packed

#: The server's message that it waits for the rows of a COPY, and the client's that these were all.
_COPY_BEGINS, _COPY_ENDS = b"G", (b"c", b"f")


@dataclass
class _Server:
    """A session of the server, and the settings that it reported at its start."""

    socket: socket.socket
    settings: list[bytes] = field(default_factory=list)
    key: bytes = b""


class Pooler(ProtocolServer):
    """A context manager: lends sessions of one role and database to clients, the one released last first.

    Its clients speak the simple protocol, as psycopg2 does.

    Args:
        url: the database, over a socket on which the server asks for no password.
        per_session: lend for a client's session, and not for a transaction.
        own_ids: give clients process ids of its own, and not those of the server.
        pins: a client that listens keeps its session, as with Amazon's RDS Proxy.
        delivers: listen for its clients on a session of its own, as PgDog does.

    Attributes:
        idle: the sessions that are not lent.
    """

    def __init__(
        self,
        url: str,
        *,
        per_session: bool = False,
        own_ids: bool = True,
        pins: bool = False,
        delivers: bool = False,
    ) -> None:
        super().__init__("pooler")
        self._per_session = per_session
        self._own_ids, self._pins, self._delivers = own_ids, pins, delivers
        self._target = psycopg2.extensions.parse_dsn(url)
        self.idle: list[_Server] = []

    @property
    def url(self) -> str:
        return self.address(self._target["user"], self._target["dbname"])

    def _answer(self, client: socket.socket) -> None:
        server = self._lend()
        self.idle.append(server)
        made_up = struct.pack("!II", secrets.randbits(31), secrets.randbits(31)) if self._own_ids else server.key
        client.sendall(packed(b"R", bytes(4)) + b"".join(server.settings) + packed(b"K", made_up) + packed(b"Z", IDLE))
        if self._per_session:
            self._bind(client, self._lend())
            return
        lent: _Server | None = None
        kind, content = message(client)
        while kind != b"X":
            lent = lent or self._lend()
            if content.startswith(b"LISTEN") and (self._pins or self._delivers):
                # Amazon pins the session; PgDog has a session that listens. To a client both are one that is its own.
                if self._delivers:
                    self._listen(client, content)
                    client.sendall(packed(b"C", b"LISTEN\0") + packed(b"Z", IDLE))
                    kind, content = message(client)
                    continue
                lent.socket.sendall(packed(kind, content))
                self._bind(client, lent)
                return
            lent.socket.sendall(packed(kind, content))
            state = _answered(client, lent.socket)
            if state == IDLE:
                self.idle.append(lent)  # before its client knows, so that the next one borrows it
                lent = None
            client.sendall(packed(b"Z", state))
            kind, content = message(client)

    def _listen(self, client: socket.socket, statement: bytes) -> None:
        """Listen on a session of this pooler's, and pass its notifications on."""
        listening = self._lend()
        listening.socket.sendall(packed(b"Q", statement))

        def deliver() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kind, content = message(listening.socket)
                    if kind == b"A":
                        client.sendall(packed(kind, content))

        threading.Thread(target=deliver, name="pooler's notifications", daemon=True).start()

    def _bind(self, client: socket.socket, server: _Server) -> None:
        """Relay bytes in both directions.  The server's session ends with its client's."""
        threading.Thread(target=_pump, args=[server.socket, client], name="pooled server", daemon=True).start()
        _pump(client, server.socket)

    def _lend(self) -> _Server:
        with contextlib.suppress(IndexError):
            return self.idle.pop()
        one = self._keep(socket.socket(socket.AF_UNIX))
        one.connect(f"{self._target['host']}/.s.PGSQL.{self._target.get('port', '5432')}")
        words = f"user\0{self._target['user']}\0database\0{self._target['dbname']}\0\0".encode()
        one.sendall(struct.pack("!II", len(words) + 8, 3 << 16) + words)
        server = _Server(one)
        kind = b""
        while kind != b"Z":
            kind, content = message(one)
            if kind == b"S":
                server.settings.append(packed(kind, content))
            if kind == b"K":
                server.key = content
        return server


def _answered(client: socket.socket, server: socket.socket) -> bytes:
    """Relay the answers to one message but the last, and what a COPY asks for; returns the state that is the last."""
    while True:
        kind, content = message(server)
        if kind == b"Z":
            return content
        client.sendall(packed(kind, content))
        while kind == _COPY_BEGINS:
            part, content = message(client)
            server.sendall(packed(part, content))
            if part in _COPY_ENDS:
                break


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
