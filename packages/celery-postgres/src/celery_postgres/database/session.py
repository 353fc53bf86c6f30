"""How a statement reaches PostgreSQL: one session is one connection.

The only module that calls the driver. psycopg2 has no automatic prepared statements, so a session prepares each named
statement at its first use: a prepared insert is 2,600 durable commits/s where a plain one is 1,300.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
import weakref
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import errorcodes

from celery_postgres.database import keepalive, watchdog
from celery_postgres.database.array_literals import numbers
from celery_postgres.database.statements import statements
from celery_postgres.errors import lagging, primary, restated, translate

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]

#: PostgreSQL undid the transaction and asks for another attempt.
_CONFLICTS = frozenset({errorcodes.SERIALIZATION_FAILURE, errorcodes.DEADLOCK_DETECTED})
_ATTEMPTS = 6
#: How long a session wakes nobody after its server's NOTIFY queue was full, so as not to send each statement twice.
_QUIET_S = 1.0
#: How often a process says so.
_SAY_S = 60.0
#: The server ended the session before it looked at the statement, or let it write nothing: sending it again cannot do
#: it twice.
_NOT_EXECUTED = frozenset(
    {
        errorcodes.ADMIN_SHUTDOWN,
        errorcodes.CRASH_SHUTDOWN,
        errorcodes.CANNOT_CONNECT_NOW,
        errorcodes.READ_ONLY_SQL_TRANSACTION,
    }
)

#: Every session. Plans must not depend on statistics: a table that was empty at the last analyze and holds a million
#: messages now would be read from end to end. So: the generic plan, by index, in loops. What is left to the planner is
#: the order of a join: with dead rows that a long transaction keeps and no analyze counts, it turned 9,000 tasks/s
#: into 4. So no statement of ours joins a table that grows: its rows are asked for by `id = ANY (array)`, and
#: `OFFSET 0` or `IS TRUE` keep a subquery from becoming a join.
_SETTINGS = {
    "application_name": "celery_postgres",
    "statement_timeout": "30s",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    **keepalive.SETTINGS,
}


class Session:
    """One connection in autocommit. Not for two threads at once."""

    def __init__(self, dsn: str, settings: dict[str, str] | None = None, *, connect_timeout: int = 5) -> None:
        """Connect.

        Raises:
            psycopg2.OperationalError: nobody answers, or not to us.
        """
        options: dict[str, Any] = {"client_encoding": "utf8", "fallback_application_name": "celery_postgres"}
        options |= keepalive.completed(dsn)
        if "connect_timeout" not in dsn:
            options["connect_timeout"] = str(connect_timeout)
        try:
            self._connection = psycopg2.connect(dsn, **options)
        except psycopg2.Error as error:
            raise translate(error) from None
        self._readable = select.poll()
        self._readable.register(self._connection.fileno(), select.POLLIN)
        self.pid, self.dsn = os.getpid(), dsn
        self._role = str(self._connection.info.user)  # a connection that broke does not tell it any more
        self._prepared: set[str] = set()
        self._quiet_until = 0.0
        wanted = _SETTINGS | (settings or {})
        self.patience = watchdog.patience_of(wanted["statement_timeout"])
        self.asked = time.monotonic()
        watchdog.watch(self)
        try:
            self._connection.autocommit = True
            self._cursor = self._connection.cursor()
            if self._connection.info.dsn_parameters.get("application_name"):
                wanted.pop("application_name", None)
            claimed = self._connection.info.backend_pid
            self._cursor.execute(
                # Behind a transaction pooler the server's session is everybody's: the program's own queries, which may
                # come next on it, must not run with our timeout and plans. There each statement brings them along.
                "SELECT pg_backend_pid(), host(inet_client_addr()), inet_client_port(), "
                + ", ".join(["set_config(%s, %s, pg_backend_pid() <> %s)"] * len(wanted)),
                [word for name, value in wanted.items() for word in (name, value, claimed)],
            )
            backend, *client = self._cursor.fetchone()[:3]
            #: A transaction pooler makes up a process id of its own for its clients.
            self.pooled = backend != claimed
            #: Whether the server sees this very socket, and no proxy's: then its kernel and ours know of each other.
            self.direct = not self.pooled and client == keepalive.local_address(self.fileno())
            for own in ("application_name", *keepalive.SETTINGS):  # of a pooler's client, and of its own connection
                wanted.pop(own, None)
            self._bring_along = self._local_settings(wanted) if self.pooled else ""
        except psycopg2.Error as error:
            told = self._told(error)
            self.close()
            raise told from None
        finally:
            self.asked = 0.0
        _everyone.add(self)

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    def fileno(self) -> int:
        return int(self._connection.fileno())

    def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement in a transaction of its own; its rows, or of one that returns none an empty row
        for each that it wrote.

        Conflicts between transactions are retried here, also those with an id that a sequence has given twice. Where
        the server's NOTIFY queue is full it is executed without its wake-up.

        Raises:
            SchemaError: the tables or the rights are not there.
            psycopg2.Error: anything else, without the statement in its words. Look at `closed`.
        """
        statement = statements()[name]
        for parameter in statement.numbers:
            if parameters[parameter] is not None:
                parameters[parameter] = numbers(parameters[parameter])
        if self._quiet_until and statement.quietly:
            if time.monotonic() < self._quiet_until:
                statement = statement.quietly
                name = statement.name
            else:
                self._quiet_until = 0.0
        for attempt in range(_ATTEMPTS):
            self.asked = time.monotonic()
            try:
                if self.pooled:
                    # Several statements in one message are one transaction.
                    self._cursor.execute(self._bring_along + statement.direct, parameters)
                else:
                    if name not in self._prepared:
                        self._cursor.execute(statement.prepare)
                        self._prepared.add(name)
                    self._cursor.execute(statement.execute, parameters)
                return self._cursor.fetchall() if self._cursor.description else [()] * max(0, self._cursor.rowcount)
            except psycopg2.Error as error:
                if error.pgcode in _CONFLICTS and attempt < _ATTEMPTS - 1:
                    continue
                if error.pgcode == errorcodes.INVALID_SQL_STATEMENT_NAME and attempt < _ATTEMPTS - 1:
                    self._prepared.clear()  # DISCARD ALL, or another server behind the same address
                    continue
                if error.pgcode == errorcodes.FEATURE_NOT_SUPPORTED and attempt < _ATTEMPTS - 1:
                    self._forget(name)  # "cached plan must not change result type": a migration ran
                    continue
                if error.pgcode == errorcodes.PROGRAM_LIMIT_EXCEEDED and statement.quietly:
                    # The NOTIFY queue is full; were it a limit of the value, that would say so as well.
                    statement = statement.quietly
                    name = statement.name
                    self._quiet_until = time.monotonic() + _QUIET_S
                    _say_quiet(error)
                    continue
                table = lagging(error)
                if table is not None and attempt < _ATTEMPTS - 1 and not self._in_transaction:
                    self.catch_up(table)
                    continue
                raise self._told(error, name) from None
            finally:
                self.asked = 0.0
        raise AssertionError("unreachable")

    @property
    def _in_transaction(self) -> bool:
        return bool(self._connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE)

    def catch_up(self, table: str) -> None:
        """Move the sequence of a table's ids beyond the greatest of them."""
        logger.warning("the sequence of %s lags behind its ids (logical replication copies none): moved on", table)
        self.run("catch_up", relation=table)

    def script(self, text: str) -> None:
        """Execute several statements as one transaction."""
        self.asked = time.monotonic()
        try:
            self._cursor.execute(text)
        except psycopg2.Error as error:
            raise self._told(error) from None
        finally:
            self.asked = 0.0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        """What is run within the block is one transaction; yields the driver's connection, for `publishing_on`."""
        self.script("BEGIN")
        try:
            yield self._connection
        except BaseException:
            with contextlib.suppress(psycopg2.Error):
                self.script("ROLLBACK")
            raise
        self.script("COMMIT")

    def listen(self, channel: str) -> None:
        """`channel` is one of our own plain names."""
        self.script(f"LISTEN {channel}")

    def notifications(self) -> list[str]:
        """Read what the server has sent by itself: the payloads of its notifications. Does not wait."""
        try:
            self._connection.poll()
        except psycopg2.Error as error:
            raise self._told(error) from None
        payloads = [notification.payload for notification in self._connection.notifies]
        self._connection.notifies.clear()
        return payloads

    def close(self) -> None:
        if self.pid == os.getpid():
            with contextlib.suppress(psycopg2.Error):
                self._connection.close()

    def _local_settings(self, settings: dict[str, str]) -> str:
        words = [word for pair in settings.items() for word in pair]
        select = "SELECT " + ", ".join(["set_config(%s, %s, true)"] * len(settings)) + "; "
        return str(self._cursor.mogrify(select, words).decode().replace("%", "%%"))

    def _told(self, error: psycopg2.Error, name: str = "") -> Exception:
        told = translate(error, self._role, name)
        if type(error) is psycopg2.DatabaseError:
            # What psycopg2 raises when a server is gone in the middle of an answer; Kombu must know it as a lost
            # connection, and psycopg2 itself does not always.
            self.close()
            told = restated(error, psycopg2.OperationalError)
        elif error.pgcode == errorcodes.READ_ONLY_SQL_TRANSACTION:
            # A session that began so stays so, after `default_transaction_read_only` was taken back too.
            self.close()
        elif self.closed and not isinstance(told, psycopg2.OperationalError | psycopg2.InterfaceError):
            told = restated(error, psycopg2.OperationalError)
        told.safe = error.pgcode in _NOT_EXECUTED  # type: ignore[attr-defined]
        return told

    def _forget(self, name: str) -> None:
        self._cursor.execute(f"DEALLOCATE {name}")
        self._prepared.discard(name)

    @property
    def usable(self) -> bool:
        """Whether the server has not ended it, as far as the socket tells: what can be read without a question is a
        notice, or the end."""
        for _ in range(10):
            if self.closed:
                return False
            if not self._readable.poll(0):
                return True
            try:
                self._connection.poll()
            except psycopg2.Error:
                return False
        return False

    def leave_to_parent(self) -> None:
        """In a forked child: closing would end the parent's session, and keeping the socket open would keep the
        session, and its lock, beyond the parent's death. So the descriptor is pointed elsewhere."""
        if not self.closed:
            nowhere = os.open(os.devnull, os.O_RDWR)
            with contextlib.suppress(OSError, psycopg2.Error):
                os.dup2(nowhere, self._connection.fileno())
            os.close(nowhere)


_next_said = 0.0


def _say_quiet(error: psycopg2.Error) -> None:
    global _next_said
    if time.monotonic() >= _next_said:
        _next_said = time.monotonic() + _SAY_S
        logger.warning("nobody is woken, and everybody looks by himself (%s)", primary(error))


#: Every session of this process.
_everyone: weakref.WeakSet[Session] = weakref.WeakSet()


def leave_all_to_parent() -> None:
    """In a forked child: forget every session that the parent had opened."""
    global _everyone
    for session in list(_everyone):
        session.leave_to_parent()
    _everyone = weakref.WeakSet()
