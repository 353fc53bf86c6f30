"""Advisory locks of the whole database: a session that waits for one names the holder, and gives up after a minute.

Every role that may connect can take any advisory lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from celery_postgres.errors import CeleryPostgresError

#: Seconds until the holder is named, and from then on until the wait is given up. A migration that rewrites a large
#: table takes minutes: the second run is then started again by the person who reads why it gave up.
WAITS_S = (5, 55)
#: Seconds between two attempts. A session that waited within `pg_advisory_lock` would have a transaction open, for
#: which the holder's CREATE INDEX CONCURRENTLY waits: a deadlock.
INTERVAL_S = 0.1

_TRY = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_HOLDERS = """
    SELECT activity.pid, activity.usename, activity.application_name, activity.client_addr
    FROM pg_locks AS held JOIN pg_stat_activity AS activity USING (pid)
    WHERE held.locktype = 'advisory' AND held.granted AND activity.datname = current_database()
      AND (held.classid::bigint << 32 | held.objid::bigint) = hashtextextended(%s, 0)
    ORDER BY activity.pid
"""


class LockHeldError(CeleryPostgresError):
    """Another session kept a lock for too long. The text names it, and what to do."""


def take(connection: Any, name: str, *, tell: Callable[[str], object] = lambda line: None) -> None:
    """Take the lock for as long as the session lasts.

    Args:
        connection: a psycopg2 connection outside of a transaction.
        tell: receives a line that names the holder, when the lock is not free for a while.

    Raises:
        LockHeldError: after all of `WAITS_S`.
    """
    holders = ""
    for number, seconds in enumerate(WAITS_S, 1):
        if _taken(connection, name, seconds):
            return
        holders = _holders(connection, name)
        if number < len(WAITS_S):
            tell(f"waiting for the lock {name}, which is held by {holders}")
    raise LockHeldError(
        f"the lock {name} was not free for {sum(WAITS_S)} s; it is held by {holders}: wait for that to end, or end it "
        "with pg_terminate_backend, and run this again"
    )


def _taken(connection: Any, name: str, seconds: float) -> bool:
    end, pause = time.monotonic() + seconds, threading.Event()
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_TRY, (name,))
            taken = cursor.fetchone()[0]
        connection.rollback()
        if taken or time.monotonic() >= end:
            return bool(taken)
        pause.wait(INTERVAL_S)


def _holders(connection: Any, name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(_HOLDERS, (name,))
        holders = "; ".join(_named(*row) for row in cursor.fetchall()) or "nobody, now"
    connection.rollback()
    return holders


def _named(pid: int, role: str | None, program: str | None, address: str | None) -> str:
    return f"process {pid} (role {role}, {program or 'without a name'}{f', from {address}' if address else ''})"
