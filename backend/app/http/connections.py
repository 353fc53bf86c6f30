"""Limits on the connections of slow clients and of many clients: how many there are, and how long each may take.

uvicorn closes a connection that is idle between two requests, but waits without limit for the first byte, for the rest
of the headers, and for a client that does not read. Here each connection without a request at work must complete the
headers of one by a deadline. Where there is no room for a new connection, the one that has waited longest is closed.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Collection
from contextlib import suppress
from operator import itemgetter
from typing import Any

from starlette.types import Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.core.settings import Settings
from app.observability.repeated import Repeated

logger = logging.getLogger(__name__)
logger.addFilter(Repeated())

#: Connections that are accepted at a time. Each uses a descriptor before it can be refused.
BACKLOG = 128
#: Descriptors for everything else: listening sockets, logs, the broker's connections, the health checks' connections.
OTHER_FILES = 64
#: Bytes of one read, which are parsed before the key is checked: a body in chunks of one byte each takes 15 us a byte.
READ_BYTES = 16_384
#: Bytes around the content of a body: lengths of chunks and their extensions, trailers. A MB in chunks of 1 kB has 8 kB
#: of them.
MOST_AROUND = 32_768

_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


def limit(receive: Receive, settings: Settings) -> None:
    """Make the server that starts an application serve its connections with these limits.

    Args:
        receive: the function that the server passed with the scope `lifespan`. It is the only way from an application
            to the uvicorn that runs it, for every command line. uvicorn listens only after the application has started,
            and then asks its configuration for the protocol of each connection.
    """
    config: Any = getattr(getattr(receive, "__self__", None), "config", None)
    if not hasattr(config, "http_protocol_class"):
        logger.warning("this server is not uvicorn: nothing limits its connections but itself")
        return
    config.backlog = min(config.backlog, BACKLOG)
    config.ws_protocol_class = None
    config.http_protocol_class = limited(settings)


def limited(settings: Settings) -> type[H11Protocol]:
    """uvicorn's protocol with the limits of `settings`."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = settings.web_max_connections
    if files != resource.RLIM_INFINITY:
        most = max(1, min(most, files - BACKLOG - OTHER_FILES - settings.database_pool_size))
    if most < settings.web_max_connections:
        logger.warning("%d connections at most: the limit of open files is %d (ulimit -n)", most, files)

    class Limited(Connection):
        limits = settings
        most_connections = most

    return Limited


class Connection(H11Protocol):
    """One connection."""

    limits: Settings
    most_connections: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._request_due: asyncio.TimerHandle | None = None
        self._read_due: asyncio.TimerHandle | None = None
        self._around = 0

    @property
    def at_work(self) -> bool:
        """Whether a request is being handled."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def waits(self) -> bool:
        """Whether it has a deadline for its next request."""
        return self._request_due is not None and not self._request_due.cancelled()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        with suppress(AttributeError):  # asyncio's; uvloop's has none
            transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        self._await_request(self.limits.web_header_timeout)
        of_address = self.limits.web_max_connections_per_address
        if of_address and self.client is not None:
            peers: Any = self.connections
            self._make_room([one for one in peers if one.client and one.client[0] == self.client[0]], of_address)
        self._make_room(self.connections, self.most_connections)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel(self._request_due)
        self._cancel(self._read_due)

    def data_received(self, data: bytes) -> None:
        cycle, came = self.cycle, len(self.cycle.body) if self.at_work and self.cycle.more_body else None
        super().data_received(data)
        if came is not None:
            self._around += len(data) - (len(cycle.body) - came)
            if self._around > MOST_AROUND:
                self.transport.abort()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.at_work and self.cycle is not before:
            self._cancel(self._request_due)
            self._around = 0
            # Read no more of the body until the application asks for it.
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        # Also where the connection is being closed: a client that reads nothing would keep it open.
        self._await_request(self.timeout_keep_alive + self.limits.web_header_timeout)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel(self._read_due)

    def _await_request(self, seconds: float) -> None:
        self._cancel(self._request_due)
        self._request_due = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        """No request arrived in time, or the client did not read the last answer."""
        if self.transport.is_closing():
            self.transport.abort()
        else:
            self._close_with(_SLOW if self.cycle is None else b"")

    def _await_reader(self) -> None:
        unread = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() > unread - READ_BYTES:
                self.transport.abort()
            else:
                self._await_reader()

        self._cancel(self._read_due)
        self._read_due = self.loop.call_later(self.limits.web_write_timeout, look)

    def _make_room(self, present: Collection[Any], most: int) -> None:
        """Close one connection if there are more than `most` with this one."""
        if len(present) <= most:
            return
        logger.warning("a connection is closed to make room: %d are served at most", most)
        due = [(one._request_due.when(), one) for one in present if one.waits and one is not self]
        if due:
            oldest = min(due, key=itemgetter(0))[1]
            self._cancel(oldest._request_due)
            oldest.transport.abort()
        elif not self.transport.is_closing():
            self._close_with(_FULL)

    def _close_with(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()
        self._await_request(self.limits.web_header_timeout)

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
