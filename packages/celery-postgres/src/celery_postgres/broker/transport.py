"""The transport: what Kombu and Celery look at, and the event loop."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import Any

import psycopg2

from celery_postgres.broker.bulk import Bulk
from celery_postgres.broker.channel import Channel
from celery_postgres.compat import error_isolation, publish_retry
from celery_postgres.compat.eta import with_timer
from celery_postgres.compat.upstream import virtual
from celery_postgres.consumer import decompression, registry
from celery_postgres.consumer.failure_detector import Watch
from celery_postgres.consumer.heartbeat import Attendant
from celery_postgres.consumer.prefetch import Inbox
from celery_postgres.database import pool, schema
from celery_postgres.database.address import is_postgresql, libpq_dsn, masked
from celery_postgres.database.pool import Sessions

#: As long as messages come quicker than this, one turn of the event loop delivers several: a turn costs about 50 µs.
TURN_S = 0.001
MAX_FAILURES = 5


class Transport(virtual.Transport):  # type: ignore[misc]
    """`sqla+postgresql://…`

    Transport options: `connect_timeout` (seconds), `statement_timeout` (as PostgreSQL has it), `listen_dsn`,
    `max_failures`, `max_decompressed` (bytes), `unresponsive_timeout` (seconds).
    """

    Channel = Channel
    can_parse_url = True
    default_port = 0
    #: Not `sql`: Celery switches all events off for that name.
    driver_type = "postgresql"
    driver_name = "psycopg2"
    connection_errors = (psycopg2.OperationalError, psycopg2.InterfaceError)
    implements = virtual.Transport.implements.extend(
        asynchronous=True,
        exchange_type=frozenset({"direct", "topic", "fanout"}),
        heartbeats=False,
        batch_publish=True,
    )

    def __init__(self, client: Any, **_: Any) -> None:
        super().__init__(client)
        self.bulk: Bulk | None = None
        self._pid = os.getpid()
        self._sessions: Sessions | None = None
        self._inbox: Inbox | None = None
        self._attendant: Attendant | None = None
        self._loop: Any = None
        self._timer: Any = None
        self.max_decompressed = int(client.transport_options.get("max_decompressed", decompression.MOST))
        _fit_celerys_worker(self.driver_type)

    def driver_version(self) -> str:
        return str(psycopg2.extensions.libpq_version())

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        prefix = f"{self.client.uri_prefix}+" if self.client.uri_prefix else ""
        return prefix + (uri if include_password else masked(uri, mask))

    # -- connections

    @property
    def sessions(self) -> Sessions:
        """What this process shares; made at first use, and anew in a forked child."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._sessions = self._inbox = self._attendant = self._loop = self._timer = None
        if self._sessions is None:
            options = self.client.transport_options
            settings = {"statement_timeout": str(options.get("statement_timeout", "30s"))}
            self._sessions = pool.acquire(libpq_dsn(self.client), settings, self._connect_timeout())
        return self._sessions

    def _connect_timeout(self) -> int:
        options = self.client.transport_options
        given = options.get("connect_timeout", (options.get("connect_args") or {}).get("connect_timeout"))
        return int(given or self.client.connect_timeout or 5)

    @property
    def consumes(self) -> bool:
        return self._inbox is not None and self._pid == os.getpid()

    @property
    def inbox(self) -> Inbox:
        """Made with the first consumer: a process that only publishes needs no attendant."""
        sessions = self.sessions
        if self._inbox is None:
            options = self.client.transport_options
            self._attendant = registry.acquire(
                sessions,
                options.get("listen_dsn"),
                options.get("max_failures", MAX_FAILURES),
                _unresponsive_s(options.get("unresponsive_timeout", Watch.UNRESPONSIVE_S)),
            )
            if not self._attendant.registered(self._connect_timeout()):
                raise psycopg2.OperationalError("this process could not register as a consumer")
            self._inbox = Inbox(self._attendant)
            if self._loop is not None:
                self._loop.add_reader(self._inbox.wake.fileno(), self._on_readable)
        return self._inbox

    def establish_connection(self) -> Transport:
        """Reach the server and find the tables.

        Raises:
            psycopg2.OperationalError: the server cannot be reached.
            SchemaError: the tables are not there, or not as they must be.
        """
        schema.verify(self.sessions)
        return super().establish_connection()  # type: ignore[no-any-return]

    def close_connection(self, connection: Any) -> None:
        if self._pid != os.getpid():
            return  # the parent's
        for channels in (self._avail_channels, self.channels):
            while channels:
                channels.pop().close()
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            self._unregister(inbox)
            inbox.close()
        sessions, self._sessions = self._sessions, None
        if self._attendant is not None:
            registry.release(self._attendant)
            self._attendant = None
        if sessions is not None:
            pool.give_back(sessions)

    def verify_connection(self, connection: Any) -> bool:
        return self._sessions is not None and self._pid == os.getpid()

    # -- the blocking way

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver one message, or wait for one.

        Raises:
            socket.timeout: none came in `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        inbox = self.inbox
        force = True
        while not inbox.pump(force):
            force = False
            inbox.wake.clear()
            pause = inbox.pause()
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise socket.timeout  # noqa: UP041  # Kombu's callers catch it by this name
                pause = left if pause is None else min(pause, left)
            if pause != 0:
                inbox.wake.wait(1.0 if pause is None else pause)

    # -- the event loop

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self._loop = loop
        if self._inbox is not None:
            loop.add_reader(self._inbox.wake.fileno(), self._on_readable)
        self._wake_loop_from_threads(loop)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        if self._inbox is not None:
            self._unregister(self._inbox)

    def _unregister(self, inbox: Inbox) -> None:
        if self._loop is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._loop.remove(inbox.wake.fileno())
        self._loop = self._timer = None

    def _wake_loop_from_threads(self, loop: Any) -> None:
        """Whatever a thread hands to the loop is done now: `call_soon` alone does not end the loop's `poll()`, and an
        ack would wait for up to a second, with its credit."""
        original = getattr(loop, "_celery_postgres_call_soon", None)
        if original is None:
            original = loop._celery_postgres_call_soon = loop.call_soon
        home = threading.get_ident()

        def call_soon(callback: Any, *arguments: Any) -> Any:
            called = original(callback, *arguments)
            if threading.get_ident() != home and self._inbox is not None:
                self._inbox.wake.set()
            return called

        loop.call_soon = call_soon

    def _on_readable(self) -> None:
        inbox = self._inbox
        if inbox is None:
            return
        inbox.wake.clear()
        until = time.monotonic() + TURN_S
        while inbox.pump():
            if time.monotonic() >= until:
                break
        if self._inbox is None:
            return  # a remote control command has closed us
        pause = inbox.pause()
        if pause is not None and pause <= 0:
            # Between two turns the loop runs what was handed to call_soon: the acks.
            inbox.wake.set()
        elif pause is not None:
            self._wake_after(pause)

    def _wake_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        inbox = self._inbox
        if inbox is not None:
            self._timer = self._loop.call_later(seconds, inbox.wake.set)


def _fit_celerys_worker(name: str) -> None:
    """Mingle and gossip run only for transports that they know by name; `celery inspect stats` would show the broker's
    password; and what is due would be held again. Only where Celery's worker is loaded."""
    error_isolation.install()
    publish_retry.install(Transport)
    for module, step in (("mingle", "Mingle"), ("gossip", "Gossip")):
        loaded = sys.modules.get(f"celery.worker.consumer.{module}")
        if loaded is not None:
            getattr(loaded, step).compatible_transports.add(name)
    loaded = sys.modules.get("celery.worker.consumer.connection")
    if loaded is not None and not hasattr(loaded.Connection.info, "celery_postgres"):
        loaded.Connection.info = _discreet(loaded.Connection.info)
    loaded = sys.modules.get("celery.worker.consumer.consumer")
    if loaded is not None and not hasattr(loaded.Consumer.update_strategies, "celery_postgres"):
        loaded.Consumer.update_strategies = with_timer(loaded.Consumer.update_strategies)


def _discreet(original: Any) -> Any:
    """Celery takes the password out of what a worker tells of its broker; but of a transport with addresses of its own
    Kombu calls the whole address the host, with the password in it."""

    def info(self: Any, consumer: Any, **options: Any) -> dict[str, Any]:
        told: dict[str, Any] = original(self, consumer, **options)
        broker = told.get("broker")
        if isinstance(broker, dict) and is_postgresql(broker.get("hostname")):
            broker["hostname"] = masked(broker["hostname"])
            hidden = {"listen_dsn"} & (broker.get("transport_options") or {}).keys()
            broker["transport_options"] = {**(broker.get("transport_options") or {}), **dict.fromkeys(hidden, "**")}
        return told

    info.celery_postgres = True  # type: ignore[attr-defined]
    return info


def _unresponsive_s(given: Any) -> float:
    """
    Raises:
        ValueError: it is none.
    """
    if isinstance(given, int | float) and not isinstance(given, bool) and given >= Watch.LEASE_S:
        return float(given)
    raise ValueError(f"unresponsive_timeout is a number of seconds, {Watch.LEASE_S:g} or more")
