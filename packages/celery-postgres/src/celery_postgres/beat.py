"""A scheduler for `celery beat` of which any number may run: each run of an entry is sent once.

Celery's own keeps its schedule in a file beside each beat, so two beats send everything twice, and one that takes over
from another does not know what that one has sent. Here the schedule's state is in the database. A beat takes the next
run of an entry and publishes its message in one transaction: whoever is first has it, and one that is killed in between
leaves neither. So there is no leader and no lock that must expire; all of them work, also behind a transaction pooler.
"""

from __future__ import annotations

import logging
from typing import Any

from amqp.exceptions import RecoverableConnectionError
from celery import beat
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import ChannelError, OperationalError

from celery_postgres.broker.transaction import publishing_on
from celery_postgres.database import driver
from celery_postgres.database.address import is_postgresql, libpq_dsn
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.envelope import text_or_none
from celery_postgres.database.session import Session
from celery_postgres.errors import NotPublishedError, SchemaError, is_lasting, loggable

logger = logging.getLogger(__name__)

#: Of one entry or of all: its run is not over. Kombu's are of tasks that insist on its retrying.
_NOT_SENT_YET = (driver.Error, SchemaError, NotPublishedError, OperationalError, RecoverableConnectionError)
#: Bytes of a name: an index takes 2704.
_LONGEST_NAME = 2_600


class Scheduler(beat.Scheduler):
    """`beat_scheduler = "celery_postgres.beat:Scheduler"`, or `celery beat --scheduler celery_postgres.beat:Scheduler`.

    The schedule is `beat_schedule`; an entry that is new counts from the moment when a beat first sees it. An entry
    that nobody sent while no beat ran is sent once, as with Celery's own. The clock is the beat's.

    Raises:
        ImproperlyConfigured: the broker is no PostgreSQL, or cannot hold the name of an entry.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        self._session: Session | None = None
        self._retry = Backoff()
        super().__init__(app, **options)

    def setup_schedule(self) -> None:
        if not is_postgresql(self.connection.hostname):
            raise ImproperlyConfigured("celery_postgres.beat needs a broker on PostgreSQL")
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        for name, entry in self.schedule.items():
            # Beat itself tries again. Kombu would while the run's transaction is open, and after a declaration that
            # succeeds only then publish on the channel that it has closed.
            entry.options = {**(entry.options or {}), "retry": False}
            if (name and text_or_none(name) is None) or len(name.encode()) > _LONGEST_NAME:
                raise ImproperlyConfigured(
                    f"celery_postgres.beat cannot store the name of the entry {ascii(name)[:60]}: it holds a NUL or "
                    f"half a surrogate pair, or has more than {_LONGEST_NAME} bytes"
                )

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
        except _NOT_SENT_YET as error:
            seconds = self._retry.failed()
            what = "use" if isinstance(error, SchemaError) else "reach"
            # No argument: the application's log leaves out texts that are arguments, but for those of errors.
            logger.warning(f"beat cannot {what} its database (%s); next try in %.2f s", loggable(error), seconds)
            self._disconnect()
        else:
            self._retry.succeeded()
        return seconds

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry that is due, unless another beat has."""
        session = self._session
        assert session is not None  # noqa: S101
        at = self.schedule[entry.name].last_run_at
        try:
            with session.transaction() as connection:
                mine = bool(session.run("beat_take", entry=entry.name, runs=entry.total_run_count, at=at))
                if mine:
                    self._publish(entry, producer, session, connection)
        except _NOT_SENT_YET:
            # It may be this entry alone that cannot be sent now, and entries that are due are tried in this order.
            self.schedule[entry.name] = self.schedule.pop(entry.name)
            raise
        if not mine:
            self._read(session)  # and with it when the next run is due

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _publish(self, entry: Any, producer: Any, session: Session, connection: Any) -> None:
        # No argument: the application's log leaves out texts that are arguments.
        logger.info(f"Scheduler: Sending due task {entry.name} ({entry.task})")
        session.script("SAVEPOINT entry")
        try:
            with publishing_on(connection):
                self.apply_async(entry, producer=producer, advance=False)
        except beat.SchedulingError as error:
            cause = error.__context__
            refusal = _refusal(cause)
            told = f"{entry.name} was not sent"
            if refusal is not None:
                session.script("ROLLBACK TO SAVEPOINT entry")
                self._drop_producer()
                by, why = refusal
                template = f"{told}: {by}".replace("%", "%%") + " (%s)"
                logger.error(template, loggable(why))  # noqa: TRY400
            elif isinstance(cause, _NOT_SENT_YET):
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
        self._drop_producer()

    def _drop_producer(self) -> None:
        """The next entry gets a new one: Kombu, retrying, closes the channel of a producer and gives it no other."""
        self.__dict__.pop("producer", None)
        connection = self.__dict__.pop("connection", None)
        if connection is not None:
            connection.release()

    def _read(self, session: Session) -> None:
        """How the entries stand."""
        for name, last_run_at, runs in session.run("beat_entries", names=list(self.schedule), now=self.app.now()):
            entry = self.schedule[name]
            # A crontab's hours are those of the zone that this time is in, as Celery's own beat has it after a run.
            entry.last_run_at, entry.total_run_count = last_run_at.astimezone(self.app.timezone), runs
        self._heap = None


def _refusal(error: BaseException | None) -> tuple[str, BaseException] | None:
    """Who does not take this entry and would not the next time either, and why; None if it is not that."""
    if isinstance(error, OperationalError):
        error = error.__cause__  # what Kombu tried again in vain
    if isinstance(error, ChannelError):
        return "the broker refused it", error
    if error is None or not is_lasting(error):
        return None
    if isinstance(error, NotPublishedError):
        return f"SQLSTATE {error.sqlstate}", error.__context__ or error
    return ("PostgreSQL refused it", error) if isinstance(error, driver.Error) else None  # of a declaration
