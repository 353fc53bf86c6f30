"""Execute the steps of a migration: with short locks, again and again, and indexes while rows are written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2
from psycopg2 import errorcodes

from celery_postgres.database.advisory_locks import LockHeldError
from celery_postgres.database.migrations.files import MigrationError, Step

#: Everything that needs a table queues behind the statement that waits for its lock, so a step waits for this long,
#: and then lets the others pass.
LOCK_TIMEOUT_S = 2
#: Seconds between two attempts, in which the queue empties; from the fifth on the last.
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0)
#: With the pauses about a minute.
ATTEMPTS = 14
#: An index that is created concurrently blocks nobody, and itself waits for every older transaction of the database.
INDEX_TIMEOUT_S = 600

#: A worker that consumes meanwhile, stock's above all, takes the tables in another order than a migration does.
_AGAIN = (errorcodes.DEADLOCK_DETECTED, errorcodes.LOCK_NOT_AVAILABLE)

_DROP_VIEWS = """
    DO $$
    DECLARE
        one record;
    BEGIN
        FOR one IN
            SELECT c.oid::regclass AS view FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = current_schema() || '_console' AND c.relkind = 'v' AND pg_has_role(c.relowner, 'USAGE')
        LOOP
            EXECUTE format('DROP VIEW %s', one.view);
        END LOOP;
    END
    $$
"""
_VALIDITY = """
    SELECT i.indisvalid FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
    WHERE c.oid = to_regclass(%s)
"""
#: Sessions with locks on the package's tables, those with the oldest transactions first.
_HOLDERS = """
    SELECT activity.pid, activity.usename, activity.application_name,
        extract(epoch FROM clock_timestamp() - activity.xact_start)::bigint,
        string_agg(DISTINCT class.relname, ', ')
    FROM pg_locks AS held
    JOIN pg_class AS class ON class.oid = held.relation
    JOIN pg_stat_activity AS activity ON activity.pid = held.pid
    WHERE held.granted AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND class.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND class.relkind = 'r'
      AND class.relname ~ '^(kombu|celery)_' AND held.pid <> pg_backend_pid()
    GROUP BY activity.pid, activity.usename, activity.application_name, activity.xact_start
    ORDER BY activity.xact_start
    LIMIT 3
"""
#: What an index that is created concurrently waits for.
_OLDEST = """
    SELECT activity.pid, activity.usename, activity.application_name,
        extract(epoch FROM clock_timestamp() - activity.xact_start)::bigint, NULL
    FROM pg_stat_activity AS activity
    WHERE activity.datname = current_database() AND activity.xact_start IS NOT NULL
      AND activity.pid <> pg_backend_pid() AND activity.backend_type = 'client backend'
    ORDER BY activity.xact_start
    LIMIT 3
"""


class Executor:
    """Executes steps on a cursor in autocommit mode whose search_path is the schema.

    Args:
        tell: receives a line for each wait.
    """

    def __init__(self, cursor: Any, tell: Callable[[str], object]) -> None:
        self._cursor = cursor
        self._tell = tell
        self._never = threading.Event()

    def apply(self, steps: Sequence[Step]) -> None:
        """Execute what is still to be done of the steps.

        Raises:
            LockHeldError: other sessions kept a table locked; the text names them. What is done stays done.
            psycopg2.Error: anything else.
        """
        for step in steps:
            if step.kind == "guard" or self._needless(step):
                continue
            self._patiently(step)

    def drop_views(self) -> None:
        """Drop the views that `roles.sql` has made of the tables, which keep their columns from being dropped."""
        self._cursor.execute(_DROP_VIEWS)

    def guard(self, steps: Sequence[Step]) -> None:
        """Count what the steps would delete.

        Raises:
            MigrationError: there is something.
        """
        for step in steps:
            if step.kind == "guard" and not self._needless(step):
                self._cursor.execute(step.sql)
                count = self._cursor.fetchone()[0]
                if count:
                    raise MigrationError(f"{step.what.replace('%s', str(count))}, or pass --allow-data-loss")

    def _needless(self, step: Step) -> bool:
        if step.index:
            self._cursor.execute(_VALIDITY, (step.index,))
            found = self._cursor.fetchone()
            return found is None if step.kind == "drop concurrently" else found == (True,)
        if not step.unless:
            return False
        self._cursor.execute(f"SELECT ({step.unless})")
        return bool(self._cursor.fetchone()[0])

    def _patiently(self, step: Step) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if step.index:
                    self._concurrently(step)
                else:
                    self._within(step.sql)
                return
            except psycopg2.Error as error:
                if error.pgcode not in _AGAIN:
                    raise
            held = self._holders(_OLDEST if step.index else _HOLDERS)
            if attempt == ATTEMPTS or step.index:
                raise LockHeldError(
                    f"cannot {step.doing}: the lock was not free in {attempt} attempts; it is held by {held}: wait for "
                    "that to end, or end it with pg_terminate_backend, and migrate again; what is done stays done"
                )
            pause_s = PAUSES_S[min(attempt, len(PAUSES_S)) - 1]
            self._tell(
                f"waiting to {step.doing}: the lock is held by {held}; try {attempt + 1} of {ATTEMPTS} in {pause_s:g} s"
            )
            self._never.wait(pause_s)

    def _within(self, sql: str) -> None:
        """In a transaction of its own: several statements in one message are one transaction."""
        self._cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'; {sql}")

    def _concurrently(self, step: Step) -> None:
        """Create or drop an index while rows are read and written. An invalid one of an attempt that was cut off is
        dropped first. On a table without rows nothing is to be waited for, and the index is created at once."""
        self._cursor.execute(f"SET lock_timeout = '{INDEX_TIMEOUT_S}s'")
        try:
            if step.kind == "concurrently":
                self._cursor.execute(_VALIDITY, (step.index,))
                if self._cursor.fetchone() is not None:
                    self._cursor.execute(f"DROP INDEX CONCURRENTLY {step.index}")
                if self._is_empty(step.table):
                    self._within(step.sql.replace(" CONCURRENTLY ", " ", 1))
                    return
            self._cursor.execute(step.sql)
        finally:
            if not self._cursor.connection.closed:
                self._cursor.execute("SET lock_timeout = 0")

    def _is_empty(self, table: str) -> bool:
        self._cursor.execute(f"SELECT NOT EXISTS (SELECT FROM {table})")  # noqa: S608  # our own files name it
        return bool(self._cursor.fetchone()[0])

    def _holders(self, query: str) -> str:
        """For people: who has locks on the tables now."""
        self._cursor.execute(query)
        return "; ".join(_named(*row) for row in self._cursor.fetchall()) or "nobody, now"


def _named(pid: int, role: str | None, program: str | None, age_s: int | None, tables: str | None) -> str:
    locks = f", locks {tables}" if tables else ""
    age = "" if age_s is None else f", in a transaction for {age_s} s"
    return f"process {pid} (role {role}, {program or 'without a name'}{age}{locks})"
