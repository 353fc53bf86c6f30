"""Advisory locks of the whole database that are waited for, but not for ever and not without a word.

Whoever may connect can take any advisory lock. So who waits for one says who has it, and gives up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2

#: Seconds until it is said who has the lock, and from then on until it is given up. A migration that rewrites a large
#: table takes minutes: the second run is then begun again by whoever reads why it gave up.
WAITS_S = (5, 55)

_TAKE = {
    "session": "SELECT pg_advisory_lock(hashtextextended(%s, 0))",
    "transaction": "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
}
_HOLDERS = """
    SELECT activity.pid, activity.usename, activity.application_name, activity.client_addr
    FROM pg_locks AS held JOIN pg_stat_activity AS activity USING (pid)
    WHERE held.locktype = 'advisory' AND held.granted AND activity.datname = current_database()
      AND (held.classid::bigint << 32 | held.objid::bigint) = hashtextextended(%s, 0)
    ORDER BY activity.pid
"""


class LockHeldError(Exception):
    """Somebody kept a lock for too long. The text names who, and what to do."""


def take(connection: Any, name: str, owner: str, *, tell: Callable[[str], object] = lambda line: None) -> None:
    """Take the lock for as long as the session or the transaction lasts.

    Parameters:
        connection: a psycopg2 connection at the beginning of a transaction.
        owner: `session` or `transaction`.
        tell: is given a line that names who has it, when that takes a while.

    Raises:
        LockHeldError: after all of `WAITS_S`. The transaction has been rolled back.
    """
    for number, seconds in enumerate(WAITS_S, 1):
        with connection.cursor() as cursor:
            try:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{seconds}s",))
                cursor.execute(_TAKE[owner], (name,))
                return
            except psycopg2.errors.LockNotAvailable:
                connection.rollback()
            cursor.execute(_HOLDERS, (name,))
            holders = "; ".join(_named(*row) for row in cursor.fetchall()) or "nobody, now"
            connection.rollback()
        if number < len(WAITS_S):
            tell(f"waiting for the lock {name}, which is held by {holders}")
    raise LockHeldError(
        f"the lock {name} was not free for {sum(WAITS_S)} s; it is held by {holders}: wait for that to end, or end it "
        "with pg_terminate_backend, and run this again"
    )


def _named(pid: int, role: str | None, program: str | None, address: str | None) -> str:
    return f"process {pid} (role {role}, {program or 'without a name'}{f', from {address}' if address else ''})"
