"""The heartbeats of this process: one for each database that it consumes from, shared by its Kombu connections."""

from __future__ import annotations

import atexit
import threading

from celery_postgres.consumer.heartbeat import Heartbeat
from celery_postgres.database.per_process import PerProcess
from celery_postgres.database.pool import Sessions


class _Registry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.heartbeats: dict[tuple[Sessions, str | None], Heartbeat] = {}

    def clear(self) -> list[Heartbeat]:
        with self.lock:
            heartbeats = list(self.heartbeats.values())
            self.heartbeats.clear()
        return heartbeats


_registry = PerProcess(_Registry)


def acquire(sessions: Sessions, listen_dsn: str | None, max_failures: int, unresponsive_s: float) -> Heartbeat:
    """The heartbeat for a database, started for its first consumer. Call `release` when the connection closes.

    Raises:
        psycopg2.OperationalError, SchemaError: the database cannot be used.
        ValueError: libpq cannot read `listen_dsn`.
    """
    key = sessions, listen_dsn
    registry = _registry.value
    with registry.lock:
        heartbeat = registry.heartbeats.get(key)
        if heartbeat is None:
            listen = Sessions(listen_dsn) if listen_dsn else sessions
            heartbeat = registry.heartbeats[key] = Heartbeat(sessions, listen, max_failures, unresponsive_s)
        return heartbeat


def heartbeats() -> list[Heartbeat]:
    """The heartbeats of this process; a process that does not consume has none."""
    with _registry.value.lock:
        return list(_registry.value.heartbeats.values())


def release(heartbeat: Heartbeat) -> None:
    """Stop the heartbeat unless it is still needed: a task may run longer than the connection that delivered it."""
    registry = _registry.value
    with registry.lock:
        if not heartbeat.is_idle:
            return
        for key, known in list(registry.heartbeats.items()):
            if known is heartbeat:
                del registry.heartbeats[key]
    heartbeat.stop()


def _stop_all() -> None:
    for heartbeat in _registry.value.clear():
        heartbeat.stop()


atexit.register(_stop_all)
