"""Whether broker and database can be used: checked in the background, answered from memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg2
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError

from app.core.errors import LoggableError
from app.core.settings import Settings
from app.db.checks import DatabaseReadOnly, check_writable, schema_head, schema_is_behind, schema_revision
from app.observability import probe
from app.observability.faults import brief, database_text
from celery_postgres import operations

logger = logging.getLogger(__name__)

#: Seconds for which the checking connection is kept. Whether a session may write is decided when it begins: an older
#: one may still write while every worker that reconnects may not. A new connection for each check would cost the server
#: a process start each time.
KEPT_S = 60


class SchemaBehind(LoggableError):  # noqa: N818
    """The database lacks migrations of this checkout."""


class BrokerClosed(LoggableError):  # noqa: N818
    """The role may not use the broker's tables."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check.

    Attributes:
        error: what is wrong, in a line without user, password or DSN; None if all is well.
        latency_ms: how long the check took.
        checked_at: when it ended.
        taken: the same on the monotonic clock.
    """

    error: str | None
    latency_ms: float
    checked_at: datetime
    taken: float


class HealthMonitor:
    """Checks database, broker and schema every `settings.health_interval` seconds, on its own connection.

    Attributes:
        database_well_since: monotonic time since when every check of the database succeeded; None after a failed one.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._results: dict[str, CheckResult] = {}
        self._engine = create_engine(
            settings.dsn.url(),
            creator=partial(probe.connect, settings),
            pool_size=1,
            max_overflow=0,
            pool_recycle=KEPT_S,
        )
        self._again = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self.database_well_since: float | None = None
        self.after_each: Callable[[], None] = lambda: None

    @property
    def stale_after(self) -> float:
        """Seconds after which a result is too old to use."""
        return 3 * self._settings.health_interval + probe.TIMEOUT_S

    def start(self) -> None:
        """Begin to check."""
        self._thread.start()

    def stop(self) -> None:
        """End soon; do not wait for a check in progress."""
        self._stopping = True
        self._again.set()

    def look_again(self) -> None:
        """Check now instead of at the end of the interval."""
        self._again.set()

    def result(self, check: str) -> dict[str, Any]:
        """The latest result of `check` for people and machines: status, latency_ms, checked_at, and error if any."""
        result = self._results.get(check)
        if result is None:
            return {"status": "failed", "error": "not checked yet", "latency_ms": None, "checked_at": None}
        age = time.monotonic() - result.taken
        error = f"stale: the last check ended {age:.0f} s ago" if age > self.stale_after else result.error
        shown = {
            "status": "failed" if error else "ok",
            "latency_ms": round(result.latency_ms, 1),
            "checked_at": result.checked_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        return shown | ({"error": error} if error else {})

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._look()
                self.after_each()
            except Exception:
                logger.exception("health checks failed in an unforeseen way")
            self._again.wait(self._settings.health_interval)
            self._again.clear()
        self._engine.dispose()

    def _look(self) -> None:
        unreachable: str | None = None
        for check, look in CHECKS.items():
            started = time.monotonic()
            error = unreachable or self._attempt(look)
            ended = time.monotonic()
            before = self._results.get(check)
            self._results[check] = CheckResult(error, (ended - started) * 1000, datetime.now(UTC), ended)
            if check == "database":
                # After an unreachable database the other checks are skipped: each would wait for its own time-out.
                unreachable = error
                self.database_well_since = None if error else self.database_well_since or ended
            if before is not None and bool(before.error) != bool(error):
                logger.warning("health check %s: %s", check, error or "ok again")

    def _attempt(self, look: Callable[[Connection], None]) -> str | None:
        try:
            with self._engine.connect() as connection, probe.limited(connection.connection.dbapi_connection):
                look(connection)
        except (DBAPIError, psycopg2.Error) as error:
            self._engine.dispose()
            return f"{self._settings.dsn.describe()}: {database_text(error)}"
        except DatabaseReadOnly as error:
            self._engine.dispose()  # this session would stay read-only when the database does not
            return f"{self._settings.dsn.describe()}: {error}"
        except Exception as error:
            return brief(error)
        return None


def _look_at_database(connection: Connection) -> None:
    check_writable(connection)


def _look_at_broker(connection: Connection) -> None:
    if not operations.is_usable(connection):
        raise BrokerClosed("the role may not read and update kombu_message")


def _look_at_schema(connection: Connection) -> None:
    revision = schema_revision(connection)
    if schema_is_behind(revision):
        raise SchemaBehind(f"the database is at revision {revision}, this worker expects {schema_head()}")


CHECKS: dict[str, Callable[[Connection], None]] = {
    "database": _look_at_database,
    "broker": _look_at_broker,
    "schema": _look_at_schema,
}
