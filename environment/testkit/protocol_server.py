"""The server's side of PostgreSQL's protocol, on a socket in a folder of its own: what stands in for a server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import tempfile
import threading
from types import TracebackType
from typing import Self
from urllib.parse import quote

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
#: What a server says of a session that is in no transaction.
IDLE = b"I"


class ProtocolServer:
    """A context manager: has each client served in a thread of its own, once it has sent its first message.

    It asks for no password, so it listens in a folder that no other account can enter.

    Args:
        name: of its folder and its threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: list[socket.socket] = []
        self._closed = False
        self._lock = threading.Lock()
        self._folder = tempfile.mkdtemp(prefix=f"{name}-")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder}/.s.PGSQL.5432")
        self._listener.listen()

    def address(self, role: str, database: str) -> str:
        """The URL of a database through it."""
        return f"postgresql://{role}@/{database}?host={quote(self._folder)}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name=self._name, daemon=True).start()
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
                name = f"client of the {self._name}"
                threading.Thread(target=self._serve, args=[client], name=name, daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            length, version = struct.unpack("!II", exactly(client, 8))
            while version in (_SSL_REQUEST, _GSS_REQUEST):
                client.sendall(b"N")
                length, version = struct.unpack("!II", exactly(client, 8))
            exactly(client, length - 8)
            self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        """Answer a client until it ends."""
        raise NotImplementedError

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


def packed(kind: bytes, content: bytes) -> bytes:
    """A message of the protocol."""
    return kind + struct.pack("!I", len(content) + 4) + content


def message(source: socket.socket) -> tuple[bytes, bytes]:
    """The kind and the content of the next message.

    Raises:
        ConnectionResetError: the peer has ended.
    """
    head = exactly(source, 5)
    return head[:1], exactly(source, struct.unpack("!I", head[1:])[0] - 4)


def exactly(source: socket.socket, count: int) -> bytes:
    """The next bytes.

    Raises:
        ConnectionResetError: the peer has ended.
    """
    got = b""
    while len(got) < count:
        part = source.recv(count - len(got))
        if not part:
            raise ConnectionResetError
        got += part
    return got
