"""The heartbeats of this process: one for each database that it consumes from, shared by its Kombu connections."""

from __future__ import annotations

import atexit
import os
import threading

from celery_postgres.consumer.heartbeat import Attendant
from celery_postgres.database.address import direct_dsn
from celery_postgres.database.pool import Sessions

_lock = threading.Lock()
_heartbeats: dict[tuple[Sessions, str | None], Attendant] = {}


def acquire(sessions: Sessions, listen_dsn: str | None, max_failures: int, unresponsive_s: float) -> Attendant:
    """The heartbeat for a database, started for its first consumer. Call `release` when the connection closes.

    Raises:
        psycopg2.OperationalError, SchemaError: the database cannot be used.
        ValueError: libpq cannot read `listen_dsn`.
    """
    key = sessions, listen_dsn
    with _lock:
        heartbeat = _heartbeats.get(key)
        if heartbeat is None:
            listen = Sessions(direct_dsn(listen_dsn)) if listen_dsn else sessions
            heartbeat = _heartbeats[key] = Attendant(sessions, listen, max_failures, unresponsive_s)
        return heartbeat


def heartbeats() -> list[Attendant]:
    """The heartbeats of this process; a process that does not consume has none."""
    with _lock:
        return list(_heartbeats.values())


def release(heartbeat: Attendant) -> None:
    """Stop the heartbeat unless it is still needed: a task may run longer than the connection that delivered it."""
    with _lock:
        if not heartbeat.idle:
            return
        for key, known in list(_heartbeats.items()):
            if known is heartbeat:
                del _heartbeats[key]
    heartbeat.stop()


def _stop_all() -> None:
    with _lock:
        stopping = list(_heartbeats.values())
        _heartbeats.clear()
    for heartbeat in stopping:
        heartbeat.stop()


def _forget_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _heartbeats.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_forget_in_child)
