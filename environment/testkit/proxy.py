"""A TCP proxy that resets, stalls and discards answers: faults of the network between client and server."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with 0 s: close sends RST


class Proxy:
    """Passes every connection on to ``target``.  A context manager.

    Attributes:
        port: where it listens on 127.0.0.1.
        swallowed: bytes of answers discarded so far.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.swallowed = 0
        self._selector = selectors.DefaultSelector()
        self._pairs: dict[socket.socket, tuple[socket.socket, bool]] = {}
        #: What a peer has not read yet; until it has, nothing more is read for it.  One slow connection must not hold
        #: up the others: pg_basebackup reads its first connection only after it has opened its second.
        self._unsent: dict[socket.socket, bytes] = {}
        self._lock = threading.RLock()
        self._running = threading.Event()
        self._running.set()
        self._refusing = self._swallowing = self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._waker, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)

    def url(self, direct: str) -> str:
        """The same database as the TCP URL ``direct``, through the proxy."""
        assert f":{self.target[1]}/" in direct
        return direct.replace(f":{self.target[1]}/", f":{self.port}/")

    # -- faults

    def cut(self, *, reset: bool = True) -> None:
        """Reset every open connection on both sides; without ``reset`` close it in order."""
        with self._lock:
            while self._pairs:
                self._drop(next(iter(self._pairs)), reset=reset)

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections at once, like a port on which no process listens."""
        self._refusing = refusing

    def stall(self) -> None:
        """Relay nothing and close nothing, like a network that loses every packet."""
        self._running.clear()

    def resume(self) -> None:
        """End a stall, and relay what waited."""
        self._running.set()

    def swallow_answers(self, swallowing: bool = True) -> None:
        """Relay requests and discard answers: the server commits, and its client does not learn of it."""
        self._swallowing = swallowing

    def connections(self) -> int:
        """Return how many clients are connected."""
        with self._lock:
            return sum(is_client for _, is_client in self._pairs.values())

    # -- inside

    def _serve(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._waker, selectors.EVENT_READ)
        while not self._closed:
            for key, events in self._selector.select():
                self._running.wait()
                if self._closed:
                    return
                one = key.fileobj
                assert isinstance(one, socket.socket)
                with self._lock:
                    if one is self._listener:
                        self._accept()
                    else:
                        self._move(one, events)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            if self._refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(self.target)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        for one, other, is_client in ((client, server, True), (server, client, False)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
            self._pairs[one] = (other, is_client)
            self._selector.register(one, selectors.EVENT_READ)

    def _move(self, one: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE and one in self._unsent:
                self._send(one, self._unsent.pop(one))
            if events & selectors.EVENT_READ and one in self._pairs:
                self._pass_on(one)
        except OSError:
            self._drop(one)

    def _pass_on(self, one: socket.socket) -> None:
        other, is_client = self._pairs[one]
        data = one.recv(1 << 16)
        if not data:
            self._drop(one)
        elif self._swallowing and not is_client:
            self.swallowed += len(data)
        else:
            self._send(other, data)

    def _send(self, one: socket.socket, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            data = data[one.send(data) :]
        if data:
            self._unsent[one] = data
        for end in (one, self._pairs[one][0]):
            self._watch(end)

    def _watch(self, one: socket.socket) -> None:
        wanted = 0 if self._pairs[one][0] in self._unsent else selectors.EVENT_READ
        wanted |= selectors.EVENT_WRITE if one in self._unsent else 0
        key = self._selector.get_map().get(one)
        if key is not None and key.events != wanted:
            self._selector.unregister(one)
        if wanted and (key is None or key.events != wanted):
            self._selector.register(one, wanted)

    def _drop(self, one: socket.socket, *, reset: bool = False) -> None:
        if one not in self._pairs:
            return
        other, _ = self._pairs[one]
        for end in (one, other):
            self._pairs.pop(end, None)
            self._unsent.pop(end, None)
            if end in self._selector.get_map():
                self._selector.unregister(end)
            if reset:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._running.set()
        self._wake.send(b"x")
        self._thread.join()
        self.cut()
        for one in (self._listener, self._waker, self._wake):
            one.close()
        self._selector.close()
