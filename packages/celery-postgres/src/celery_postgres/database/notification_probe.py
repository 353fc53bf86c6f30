"""Whether notifications arrive: behind a pooler that is found out by sending one.

A pooler shows only a process id of its own, whether it lends a session for one transaction (then its clients receive no
notifications in between) or for as long as its client stays. In both cases the next client inherits what is left in a
session, unless the pooler resets it, so nothing else depends on this distinction.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

import psycopg2

from celery_postgres.database.session import Session
from celery_postgres.database.wake import Wake
from celery_postgres.errors import primary

logger = logging.getLogger(__name__)

#: Within one data center it takes a few milliseconds.
PATIENCE_S = 0.5
#: How long the answer is kept: each probe delays its caller.
KEPT_S = 60.0

_without_until: dict[str, float] = {}


def hears(session: Session, dsn: str, connect: Callable[[], Session]) -> bool:
    """Whether a session hears notifications while it is idle.

    Args:
        connect: makes another session of the same `dsn`, to notify from: what a session sends itself always arrives.
    """
    if not session.pooled:
        return True
    if time.monotonic() < _without_until.get(dsn, 0.0):
        return False
    word = secrets.token_hex(16)
    session.listen(f"celery_postgres_{word}")
    try:
        other = connect()
        try:
            other.script(f"NOTIFY celery_postgres_{word}, '{word}'")
        finally:
            other.close()
        if _comes(session, word):
            return True
    except psycopg2.Error as error:
        if session.closed:
            raise
        logger.warning("The pooler lends no second session, so its pool is too small for a worker: %s", primary(error))
    finally:
        if not session.closed:
            session.script(f"UNLISTEN celery_postgres_{word}")
    _without_until[dsn] = time.monotonic() + KEPT_S
    return False


def _comes(session: Session, word: str) -> bool:
    wake, until = Wake(), time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < until:
            if word in session.notifications():
                return True
            wake.wait(until - time.monotonic(), session.fileno())
        return False
    finally:
        wake.close()
