"""How a statement reaches PostgreSQL: one session is one connection.

A session prepares each named statement at its first use: 2,600 durable inserts/s then, and 1,300 otherwise.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import errorcodes

from celery_postgres.database import advisory_locks, keepalive, opened, server, watchdog
from celery_postgres.database.array_literals import numbers
from celery_postgres.database.binary_row import COPIED_AT_ONCE, binary_row
from celery_postgres.database.session_settings import SETTINGS
from celery_postgres.database.statements import Statement, statements
from celery_postgres.database.translating import restated, translate
from celery_postgres.errors import UnsupportedServerError, lagging, primary

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]

#: PostgreSQL undid the transaction and asks for another attempt.
_CONFLICTS = frozenset({errorcodes.SERIALIZATION_FAILURE, errorcodes.DEADLOCK_DETECTED})
_ATTEMPTS = 6
#: A prepared statement is gone, or is there and not this session's.
_OTHERS_STATEMENTS = frozenset({errorcodes.INVALID_SQL_STATEMENT_NAME, errorcodes.DUPLICATE_PREPARED_STATEMENT})
#: How long a session sends no wake-ups after its server's NOTIFY queue was full, or each statement would be sent twice.
_QUIET_S = 1.0
#: How often a process warns of that.
_WARNING_S = 60.0
_SHUTDOWN = {errorcodes.ADMIN_SHUTDOWN, errorcodes.CRASH_SHUTDOWN, errorcodes.CANNOT_CONNECT_NOW}
#: The server ended the session before it executed the statement, or refused to write: sending it again is safe.
_NOT_EXECUTED = frozenset(_SHUTDOWN | {errorcodes.READ_ONLY_SQL_TRANSACTION})


class Session:
    """One connection in autocommit. Not for two threads at once."""

    def __init__(self, dsn: str, settings: dict[str, str] | None = None, *, connect_timeout: int = 5) -> None:
        """Connect.

        Raises:
            psycopg2.OperationalError: the server cannot be reached, or refuses this login.
            UnsupportedServerError: it cannot be used.
        """
        options: dict[str, Any] = {"client_encoding": "utf8", "fallback_application_name": "celery_postgres"}
        options |= keepalive.completed(dsn) | ({} if "connect_timeout" in dsn else {"connect_timeout": connect_timeout})
        try:
            self._connection = psycopg2.connect(dsn, **options)
        except psycopg2.Error as error:
            raise translate(error) from None
        self._readable = select.poll()
        self._readable.register(self._connection.fileno(), select.POLLIN)
        self.pid, self.dsn = os.getpid(), dsn
        self._role = str(self._connection.info.user)  # a broken connection no longer knows it
        self._prepared: set[str] = set()
        self._quiet_until = 0.0
        wanted = SETTINGS | (settings or {})
        self.patience = watchdog.patience_of(wanted["statement_timeout"])
        self.asked = time.monotonic()
        watchdog.watch(self)
        try:
            self._connection.autocommit = True
            server.verify(self._connection, dsn)
            self._cursor = self._connection.cursor()
            if self._connection.info.dsn_parameters.get("application_name"):
                wanted.pop("application_name", None)
            claimed = self._connection.info.backend_pid
            self._cursor.execute(
                # Behind a transaction pooler other clients use the server's session too: the program's own queries,
                # which may come next on it, must not run with our timeout and plans. There each statement sets them.
                "SELECT pg_backend_pid(), host(inet_client_addr()), inet_client_port(), "
                + ", ".join(["set_config(%s, %s, pg_backend_pid() <> %s)"] * len(wanted)),
                [word for name, value in wanted.items() for word in (name, value, claimed)],
            )
            self._backend, *client = self._cursor.fetchone()[:3]
            #: A transaction pooler makes up a process id of its own for its clients.
            self.pooled = self._backend != claimed
            #: The server has this very socket at the other end, and no proxy's: then the two kernels ask each other.
            self.direct = not self.pooled and client == keepalive.local_address(self.fileno())
            for own in ("application_name", *keepalive.SETTINGS):  # of a pooler's client, and of its own connection
                wanted.pop(own, None)
            self._bring_along = self._local_settings(wanted)
        except (psycopg2.Error, UnsupportedServerError) as error:
            told = self._told(error) if isinstance(error, psycopg2.Error) else error
            self.close()
            raise told from None
        finally:
            self.asked = 0.0
        opened.note(self)

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    def fileno(self) -> int:
        return int(self._connection.fileno())

    def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement in a transaction of its own.

        Conflicts between transactions are retried here, also those with an id that a sequence has given twice. While
        the server's NOTIFY queue is full, the statement is executed without its wake-up.

        Returns:
            Its rows; of a statement that returns none, an empty row for each that it wrote.

        Raises:
            SchemaError: the tables or the rights are missing.
            psycopg2.Error: anything else, without the text of the statement. Check `closed`.
        """
        statement = statements()[name]
        for parameter in statement.numbers:
            if parameters[parameter] is not None:
                parameters[parameter] = numbers(parameters[parameter])
        if self._quiet_until and statement.quietly:
            if time.monotonic() < self._quiet_until:
                statement = statement.quietly
            else:
                self._quiet_until = 0.0
        for attempts_left in reversed(range(_ATTEMPTS)):
            self.asked = time.monotonic()
            try:
                return self._execute(statement, parameters)
            except psycopg2.Error as error:
                form = self._mend(error, statement) if attempts_left else None
                if form is None:
                    raise self._told(error, statement.name) from None
                statement = form
            finally:
                self.asked = 0.0
        raise AssertionError("unreachable")

    def _execute(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        # What a pooled session brings along is sent in one message with its statement: they are one transaction.
        if statement.copied:
            row = binary_row([(kind, parameters[name]) for name, kind in statement.copied])
            text = (self._bring_along + statement.direct) % () if self.pooled else statement.direct
            self._cursor.copy_expert(text, io.BytesIO(row), COPIED_AT_ONCE)
        elif self.pooled:
            self._cursor.execute(self._bring_along + statement.direct, parameters)
        else:
            if statement.name not in self._prepared:
                self._cursor.execute(statement.prepare)
                self._prepared.add(statement.name)
            self._cursor.execute(statement.execute, parameters)
        return self._cursor.fetchall() if self._cursor.description else [()] * max(0, self._cursor.rowcount)

    def _mend(self, error: psycopg2.Error, statement: Statement) -> Statement | None:
        """Remove the cause of an error; the statement to try next, or None if the error is the caller's to handle."""
        if error.pgcode in _OTHERS_STATEMENTS:
            self._prepared.clear()  # DISCARD ALL, or another server behind the same address
        if self._connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            return None  # in a failed transaction the server executes nothing more, and without a connection neither
        if error.pgcode in _OTHERS_STATEMENTS:
            self._doubt_ownership(error)
        if error.pgcode in _OTHERS_STATEMENTS | _CONFLICTS:
            return statement
        if error.pgcode == errorcodes.FEATURE_NOT_SUPPORTED:
            self._forget(statement.name)  # "cached plan must not change result type": a migration ran
            return statement
        if error.pgcode == errorcodes.PROGRAM_LIMIT_EXCEEDED and statement.quietly:
            # The NOTIFY queue is full. If it is a limit of a value, the quiet form fails as well.
            self._quiet_until = time.monotonic() + _QUIET_S
            _warn_quiet(error)
            return statement.quietly
        table = lagging(error)
        if table is not None:
            self.catch_up(table)
            return statement
        return None

    def catch_up(self, table: str) -> None:
        """Move the sequence of a table's ids beyond the greatest of them."""
        logger.warning("The sequence of %s lags behind its ids (logical replication copies none): advancing it", table)
        self.run("catch_up", relation=table)

    def _doubt_ownership(self, error: psycopg2.Error) -> None:
        """Share the server's session from now on if others use it too: a pooler may pass on the server's process id."""
        self.script("SELECT pg_backend_pid()")
        if error.pgcode == errorcodes.DUPLICATE_PREPARED_STATEMENT or self._cursor.fetchone() != (self._backend,):
            self.pooled, self.direct = True, False

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
        """The block is one transaction. Yields the driver's connection, for `publishing_on`."""
        self.script("BEGIN")
        try:
            yield self._connection
        except BaseException:
            with contextlib.suppress(psycopg2.Error):
                self.script("ROLLBACK")
            raise
        self.script("COMMIT")

    def roll_back(self) -> None:
        """End the transaction that a signal handler has interrupted, if there is one."""
        if self._connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            self.script("ROLLBACK")

    def keep_lock(self, name: str) -> None:
        """Hold an advisory lock for as long as this session lasts, which no pooler may lend to others.

        Raises:
            LockHeldError: another session kept it for a minute; the text names it.
        """
        advisory_locks.take(self._connection, name, tell=logger.warning)

    def listen(self, channel: str) -> None:
        """`channel` is one of our own plain names."""
        self.script(f"LISTEN {channel}")

    def notifications(self) -> list[str]:
        """The payloads of the notifications that have arrived. Does not wait."""
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
            # psycopg2 raises it when a server goes away in the middle of an answer. Kombu must recognize a lost
            # connection, which psycopg2 itself does not always.
            self.close()
            told = restated(error, psycopg2.OperationalError)
        elif error.pgcode == errorcodes.READ_ONLY_SQL_TRANSACTION:
            # A session that began read-only stays so, also after `default_transaction_read_only` was reset.
            self.close()
        elif self.closed and not isinstance(told, psycopg2.OperationalError | psycopg2.InterfaceError):
            told = restated(error, psycopg2.OperationalError)
        told.safe = error.pgcode in _NOT_EXECUTED  # type: ignore[attr-defined]
        return told

    def _forget(self, name: str) -> None:
        self.script(f"DEALLOCATE {name}")
        self._prepared.discard(name)

    @property
    def usable(self) -> bool:
        """Whether the server has not ended the session, as far as the socket shows: what can be read before a statement
        is a notice, or the end."""
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
        """Let go of the socket in a forked child: closing the session would end the parent's, and an open socket would
        keep the session, and its lock, beyond the parent's death. So the descriptor is pointed elsewhere."""
        if not self.closed:
            nowhere = os.open(os.devnull, os.O_RDWR)
            with contextlib.suppress(OSError, psycopg2.Error):
                os.dup2(nowhere, self._connection.fileno())
            os.close(nowhere)


_next_warning = 0.0


def _warn_quiet(error: psycopg2.Error) -> None:
    global _next_warning
    if time.monotonic() >= _next_warning:
        _next_warning = time.monotonic() + _WARNING_S
        logger.warning("Sleeping consumers are not notified, and poll (%s)", primary(error))
