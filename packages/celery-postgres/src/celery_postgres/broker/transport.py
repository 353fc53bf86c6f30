"""The transport: what Kombu and Celery call to connect, and to consume with or without an event loop."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from celery_postgres.broker import celery_worker
from celery_postgres.broker.bulk import Bulk
from celery_postgres.broker.channel import Channel
from celery_postgres.broker.event_loop import EventLoop
from celery_postgres.broker.placing import Placing
from celery_postgres.compat.upstream import virtual
from celery_postgres.compat.worker_stop import stop_if_told
from celery_postgres.consumer import registry
from celery_postgres.consumer.heartbeat import Heartbeat
from celery_postgres.consumer.prefetch import PrefetchBuffer
from celery_postgres.database import driver, pool, schema
from celery_postgres.database.address import libpq_dsn, masked
from celery_postgres.database.minute_store import Retention
from celery_postgres.database.options import Options
from celery_postgres.database.pool import Sessions


class Transport(virtual.Transport):  # type: ignore[misc]
    """`sqla+postgresql://…`. Its options are those of `celery_postgres.database.options.Options`."""

    Channel = Channel
    can_parse_url = True
    default_port = 0
    #: Not `sql`: Celery switches all events off for that name.
    driver_type = "postgresql"
    driver_name = driver.NAME
    connection_errors = driver.LOST_CONNECTION
    implements = virtual.Transport.implements.extend(
        asynchronous=True,
        exchange_type=frozenset({"direct", "topic", "fanout"}),
        heartbeats=False,
        batch_publish=True,
    )

    #: A `drain_events` with a shorter timeout claims at once.
    BRIEF_S = 0.1

    def __init__(self, client: Any, **_: Any) -> None:
        """
        Raises:
            OptionError: a transport option is unknown, or its value is wrong.
        """
        super().__init__(client)
        self.bulk: Bulk | None = None
        self.options = Options.of(client.transport_options)
        self.max_decompressed = self.options.max_decompressed
        self._pid = os.getpid()
        self._sessions: Sessions | None = None
        self._buffer: PrefetchBuffer | None = None
        self._heartbeat: Heartbeat | None = None
        self._event_loop: EventLoop | None = None
        self._drain_ends = False
        self.placing = self._placing()
        celery_worker.fit(Transport, self.options)

    def driver_version(self) -> str:
        return driver.libpq_version()

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        prefix = f"{self.client.uri_prefix}+" if self.client.uri_prefix else ""
        return prefix + (uri if include_password else masked(uri, mask))

    # -- connections

    @property
    def sessions(self) -> Sessions:
        """The sessions of this process; made at first use, and anew in a forked child."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._sessions = self._buffer = self._heartbeat = self._event_loop = None
            self.placing = self._placing()
        if self._sessions is None:
            settings = {"statement_timeout": self.options.statement_timeout}
            self._sessions = pool.acquire(libpq_dsn(self.client), settings, self._connect_timeout())
        return self._sessions

    def _placing(self) -> Placing | None:
        databases, settings = self.options.databases, {"statement_timeout": self.options.statement_timeout}
        if databases is None:
            return None
        return Placing(databases, lambda: self.sessions, settings, self._connect_timeout())

    def _connect_timeout(self) -> int:
        return self.options.connect_timeout or int(self.client.connect_timeout or 5)

    @property
    def consumes(self) -> bool:
        return self._buffer is not None and self._pid == os.getpid()

    @property
    def buffer(self) -> PrefetchBuffer:
        """The prefetch buffer; made for the first consumer, since a process that only publishes needs no heartbeat."""
        sessions = self.sessions
        if self._buffer is None:
            options = self.options
            self._heartbeat = registry.acquire(
                sessions,
                options.listen_dsn,
                options.max_failures,
                options.unresponsive_timeout,
                Retention(options.minutes_kept, options.hours_kept, options.actions_kept),
            )
            if not self._heartbeat.registered(self._connect_timeout()):
                raise driver.OperationalError("this process could not register as a consumer")
            self._buffer = PrefetchBuffer(self._heartbeat)
            if self._event_loop is not None:
                self._event_loop.attach(self._buffer)
        return self._buffer

    def establish_connection(self) -> Transport:
        """Connect to the server and check the tables.

        Raises:
            psycopg2.OperationalError: the server cannot be reached, or takes no writes.
            SchemaError: the tables are missing, or of another release.
            SystemExit: the server cannot be reached, and this is a worker that was told to stop.
        """
        try:
            schema.verify(self.sessions)
            registry.verify_listening(self.options.listen_dsn)
        except driver.Error:
            stop_if_told()
            raise
        return super().establish_connection()  # type: ignore[no-any-return]

    def close_connection(self, connection: Any) -> None:
        if self._pid != os.getpid():
            return  # the connection is the parent's
        for channels in (self._avail_channels, self.channels):
            while channels:
                channels.pop().close()
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._detach()
            buffer.close()
        sessions, self._sessions = self._sessions, None
        if self._heartbeat is not None:
            registry.release(self._heartbeat)
            self._heartbeat = None
        if sessions is not None:
            pool.give_back(sessions)
        if self.placing is not None:
            self.placing.close()

    def verify_connection(self, connection: Any) -> bool:
        return self._sessions is not None and self._pid == os.getpid()

    # -- consuming without an event loop

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver one message, or wait for one, or for `end_drain`.

        Raises:
            socket.timeout: no message came in `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        buffer = self.buffer
        # A caller that does not wait wants to know what is there now. Another is notified, or polls here.
        force = timeout is not None and timeout < self.BRIEF_S
        while not buffer.deliver_next(force):
            force = False
            buffer.wake.clear()
            if self._drain_ends:
                self._drain_ends = False
                return
            pause = buffer.pause()
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise socket.timeout  # noqa: UP041  # Kombu's callers catch it by this name
                pause = left if pause is None else min(pause, left)
            if pause != 0:
                buffer.wake.wait(1.0 if pause is None else pause)

    def end_drain(self) -> None:
        """Let `drain_events` return without a message, this time or the next: its caller has something to do."""
        self._drain_ends = True
        buffer = self._buffer
        if buffer is not None:
            buffer.wake.set()

    # -- consuming with an event loop

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self._event_loop = EventLoop(loop)
        if self._buffer is not None:
            self._event_loop.attach(self._buffer)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        if self._buffer is not None:
            self._detach()

    def _detach(self) -> None:
        if self._event_loop is not None:
            self._event_loop.detach()
            self._event_loop = None
