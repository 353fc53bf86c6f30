"""The heartbeats of this process: one for each database that it consumes from, shared by its Kombu connections."""

from __future__ import annotations

import atexit
import threading

from celery_postgres.consumer.heartbeat import Heartbeat
from celery_postgres.database.minute_store import Retention
from celery_postgres.database.per_process import PerProcess
from celery_postgres.database.pool import Sessions


class _Registry:
    def __init__(self) -> None:
        #: Held while a heartbeat connects, for seconds if its server does not answer: to read takes no lock.
        self.lock = threading.Lock()
        #: Replaced and never changed, so that it can be read without the lock.
        self.heartbeats: dict[tuple[Sessions, str | None], Heartbeat] = {}
        #: The `listen_dsn`s to which the latest attempt to connect has failed.
        self.unreachable: set[str] = set()

    def clear(self) -> list[Heartbeat]:
        with self.lock:
            heartbeats, self.heartbeats = self.heartbeats, {}
        return list(heartbeats.values())


_registry = PerProcess(_Registry)


def acquire(
    sessions: Sessions, listen_dsn: str | None, max_failures: int, unresponsive_s: float, kept: Retention
) -> Heartbeat:
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
            listen = sessions
            if listen_dsn:
                listen = Sessions(listen_dsn)
                registry.unreachable.add(listen_dsn)
                listen.connect().close()  # a wrong address or certificate is an error here, not a line in a log
                registry.unreachable.discard(listen_dsn)
            heartbeat = Heartbeat(sessions, listen, max_failures, unresponsive_s, kept)
            registry.heartbeats = {**registry.heartbeats, key: heartbeat}
        return heartbeat


def verify_listening(listen_dsn: str | None) -> None:
    """Connect to a `listen_dsn` to which the latest attempt has failed. Celery pauses between two attempts to connect,
    and not after an error that comes later: a worker would begin anew, with a traceback, several times a second.

    Raises:
        psycopg2.OperationalError: it still cannot be reached.
    """
    if listen_dsn in _registry.value.unreachable:
        Sessions(str(listen_dsn)).connect().close()


def heartbeats() -> list[Heartbeat]:
    """The heartbeats of this process; a process that does not consume has none."""
    return list(_registry.value.heartbeats.values())


def release(heartbeat: Heartbeat) -> None:
    """Stop the heartbeat unless it is still needed: a task may run longer than the connection that delivered it."""
    registry = _registry.value
    with registry.lock:
        if not heartbeat.is_idle:
            return
        registry.heartbeats = {key: known for key, known in registry.heartbeats.items() if known is not heartbeat}
    heartbeat.stop()


def _stop_all() -> None:
    for heartbeat in _registry.value.clear():
        heartbeat.stop()


atexit.register(_stop_all)
