"""A scheduler for `celery beat` of which any number may run: each run of an entry is sent once.

Celery's own keeps its schedule in a file beside each beat, so two beats send everything twice, and one that takes over
from another does not know what that one has sent. Here the schedule's state is in the database. A beat takes the next
run of an entry and publishes its message in one transaction: whoever is first has it, and one that is killed in between
leaves neither. So there is no leader and no lock that must expire; all of them work, also behind a transaction pooler.
"""

from __future__ import annotations

import logging
from datetime import UTC
from typing import Any

import psycopg2
from celery import beat
from celery.exceptions import ImproperlyConfigured

from celery_postgres.address import is_postgresql, libpq_dsn
from celery_postgres.errors import NotPublishedError, SchemaError, loggable
from celery_postgres.publishing import publishing_on
from celery_postgres.session import Session

logger = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0

#: SQLSTATE classes of what is wrong with a message and would be again: data, a constraint, a limit.
_REFUSED = frozenset({"22", "23", "54"})


class Scheduler(beat.Scheduler):
    """`beat_scheduler = "celery_postgres.beat:Scheduler"`, or `celery beat --scheduler celery_postgres.beat:Scheduler`.

    The schedule is `beat_schedule`; an entry that is new counts from the moment when a beat first sees it. An entry
    that nobody sent while no beat ran is sent once, as with Celery's own. The clock is the beat's.

    Raises:
        ImproperlyConfigured: the broker is no PostgreSQL.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        self._session: Session | None = None
        self._retry_s = FIRST_RETRY_S
        super().__init__(app, **options)

    def setup_schedule(self) -> None:
        if not is_postgresql(self.connection.hostname):
            raise ImproperlyConfigured("celery_postgres.beat needs a broker on PostgreSQL")
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)

    @property
    def info(self) -> str:
        """Where the state is, for the banner of `celery beat`."""
        return "    . state -> celery_beat_entry"

    def tick(self, *args: Any, **options: Any) -> float:
        """Send what is due; how long to wait, in seconds. While the database is away that is until the next try."""
        try:
            if self._session is None:
                self._connect()
            seconds = float(super().tick(*args, **options))
        except (psycopg2.Error, SchemaError, NotPublishedError) as error:
            seconds, self._retry_s = self._retry_s, min(self._retry_s * 2, LONGEST_RETRY_S)
            logger.warning("beat cannot reach its database (%s); next try in %.1f s", loggable(error), seconds)
            self._disconnect()
        else:
            self._retry_s = FIRST_RETRY_S
        return seconds

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry that is due, unless another beat has."""
        session = self._session
        assert session is not None  # noqa: S101
        at = self.schedule[entry.name].last_run_at
        with session.transaction() as connection:
            mine = bool(session.run("beat_take", entry=entry.name, runs=entry.total_run_count, at=at))
            if mine:
                self._publish(entry, producer, session, connection)
        if not mine:
            self._read(session)  # and with it when the next run is due

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _publish(self, entry: Any, producer: Any, session: Session, connection: Any) -> None:
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        session.script("SAVEPOINT entry")
        try:
            with publishing_on(connection):
                self.apply_async(entry, producer=producer, advance=False)
        except beat.SchedulingError as error:
            cause = error.__context__
            # No argument: the application's log leaves out texts that are arguments.
            told = f"{entry.name} was not sent"
            if isinstance(cause, NotPublishedError) and (cause.sqlstate or "")[:2] in _REFUSED:
                session.script("ROLLBACK TO SAVEPOINT entry")
                template = f"{told}: SQLSTATE {cause.sqlstate}".replace("%", "%%") + " (%s)"
                logger.error(template, loggable(cause.__context__ or cause))  # noqa: TRY400
            elif isinstance(cause, NotPublishedError | SchemaError | psycopg2.Error):
                raise cause from None
            else:
                # As with Celery's own: what is wrong with an entry does not keep the others from being sent.
                logger.error(f"{told} ({type(cause).__name__})")  # noqa: TRY400  its text may quote

    def _connect(self) -> None:
        timeout = (self.connection.transport_options or {}).get("connect_timeout", 5)
        self._session = Session(libpq_dsn(self.connection), connect_timeout=timeout)
        self._read(self._session)

    def _disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _read(self, session: Session) -> None:
        """How the entries stand."""
        for name, last_run_at, runs in session.run("beat_entries", names=list(self.schedule)):
            entry = self.schedule[name]
            entry.last_run_at, entry.total_run_count = last_run_at.astimezone(UTC), runs
        self._heap = None
