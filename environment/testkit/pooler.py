"""A small connection pooler with PgBouncer's modes ``transaction`` and ``session``."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import struct
import tempfile
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg2.extensions

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_IDLE = b"I"


@dataclass
class _Server:
    """A session of the server, and the settings that it reported at its start."""

    socket: socket.socket
    settings: list[bytes] = field(default_factory=list)
    key: bytes = b""


class Pooler:
    """A context manager: lends sessions of one role and database to clients, the one released last first.

    Its clients speak the simple protocol, as psycopg2 does.  It asks for no password, so it listens in a folder that no
    other account can enter.

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
        self._per_session = per_session
        self._own_ids, self._pins, self._delivers = own_ids, pins, delivers
        self._target = psycopg2.extensions.parse_dsn(url)
        self.idle: list[_Server] = []
        self._open: list[socket.socket] = []
        self._closed = False
        self._lock = threading.Lock()
        self._folder = tempfile.mkdtemp(prefix="pooler-")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder}/.s.PGSQL.5432")
        self._listener.listen()

    @property
    def url(self) -> str:
        return f"postgresql://{self._target['user']}@/{self._target['dbname']}?host={quote(self._folder)}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="pooler", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._keep(client)
                threading.Thread(target=self._serve, args=[client], name="pooled client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            length, version = struct.unpack("!II", _exactly(client, 8))
            while version in (_SSL_REQUEST, _GSS_REQUEST):
                client.sendall(b"N")
                length, version = struct.unpack("!II", _exactly(client, 8))
            _exactly(client, length - 8)
            self._relay(client)

    def _relay(self, client: socket.socket) -> None:
        server = self._lend()
        self.idle.append(server)
        made_up = struct.pack("!II", secrets.randbits(31), secrets.randbits(31)) if self._own_ids else server.key
        client.sendall(
            _packed(b"R", bytes(4)) + b"".join(server.settings) + _packed(b"K", made_up) + _packed(b"Z", _IDLE)
        )
        if self._per_session:
            self._bind(client, self._lend())
            return
        lent: _Server | None = None
        kind, content = _message(client)
        while kind != b"X":
            lent = lent or self._lend()
            if content.startswith(b"LISTEN") and (self._pins or self._delivers):
                # Amazon pins the session; PgDog has a session that listens. To a client both are one that is its own.
                if self._delivers:
                    self._listen(client, content)
                    client.sendall(_packed(b"C", b"LISTEN\0") + _packed(b"Z", _IDLE))
                    kind, content = _message(client)
                    continue
                lent.socket.sendall(_packed(kind, content))
                self._bind(client, lent)
                return
            lent.socket.sendall(_packed(kind, content))
            while kind != b"Z":
                kind, content = _message(lent.socket)
                client.sendall(_packed(kind, content))
            if content == _IDLE:
                self.idle.append(lent)
                lent = None
            kind, content = _message(client)

    def _listen(self, client: socket.socket, statement: bytes) -> None:
        """Listen on a session of this pooler's, and pass its notifications on."""
        listening = self._lend()
        listening.socket.sendall(_packed(b"Q", statement))

        def deliver() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kind, content = _message(listening.socket)
                    if kind == b"A":
                        client.sendall(_packed(kind, content))

        threading.Thread(target=deliver, name="pooler's notifications", daemon=True).start()

    def _bind(self, client: socket.socket, server: _Server) -> None:
        """Relay bytes in both directions.  The server's session ends with its client's."""
        threading.Thread(target=_pump, args=[server.socket, client], name="pooled server", daemon=True).start()
        _pump(client, server.socket)

    def _keep(self, one: socket.socket) -> socket.socket:
        """Have a connection closed at the end.

        Raises:
            ConnectionAbortedError: the end has come; it is closed.
        """
        with self._lock:
            if self._closed:
                one.close()
                raise ConnectionAbortedError
            self._open.append(one)
        return one

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
            kind, content = _message(one)
            if kind == b"S":
                server.settings.append(_packed(kind, content))
            if kind == b"K":
                server.key = content
        return server


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _packed(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!I", len(content) + 4) + content


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(source, 5)
    return head[:1], _exactly(source, struct.unpack("!I", head[1:])[0] - 4)


def _exactly(source: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = source.recv(count - len(got))
        if not part:
            raise ConnectionResetError
        got += part
    return got
