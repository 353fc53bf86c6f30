"""A scheduler for `celery beat` of which any number may run: each run of an entry is sent once.

Celery's own scheduler keeps its schedule in a file beside each beat, so two beats send everything twice, and a beat
that takes over from another does not know what that one has sent. Here the state of the schedule is in the database. A
beat takes the next run of an entry and publishes its message in one transaction: the first beat has it, and one that is
killed in between leaves neither. So there is no leader and no lock that must expire; all beats work, also behind a
transaction pooler.
"""

from __future__ import annotations

import heapq
import logging
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import Any

from amqp.exceptions import RecoverableConnectionError
from celery import beat
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import ChannelError, OperationalError

from celery_postgres.broker.transaction import publishing_on
from celery_postgres.database import driver
from celery_postgres.database.address import is_postgresql, libpq_dsn
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.beat_store import BeatStore, Described
from celery_postgres.database.keys import text_or_none
from celery_postgres.database.names import printable
from celery_postgres.database.options import Options
from celery_postgres.database.session import Session
from celery_postgres.errors import NotPublishedError, SchemaError, is_lasting, loggable
from celery_postgres.readmodel.schedule_words import next_run, words

logger = logging.getLogger(__name__)

#: Errors of one entry or of all after which its run is still to be sent. Kombu's are of tasks whose options insist on
#: Kombu's own retries.
_NOT_SENT_YET = (driver.Error, SchemaError, NotPublishedError, OperationalError, RecoverableConnectionError)
#: Bytes of a name: an index takes 2704.
_MAX_NAME = 2_600
#: How often a beat notes that it lives, and reads what operators want: two statements.
LOOK_S = 5.0


class Scheduler(beat.Scheduler):
    """`beat_scheduler = "celery_postgres.beat:Scheduler"`, or `celery beat --scheduler celery_postgres.beat:Scheduler`.

    The schedule is `beat_schedule`; operators may disable an entry, and have one sent now. A new entry counts from the
    moment when a beat first sees it. An entry that was due while no beat ran is sent once, as with Celery's own
    scheduler. The clock is the beat's.

    Raises:
        ImproperlyConfigured: the broker is not PostgreSQL, or cannot store the name of an entry.
    """

    _heap: list[Any] | None

    def __init__(self, app: Any, **options: Any) -> None:
        self._session: Session | None = None
        self._retry = Backoff()
        self._id = secrets.randbits(62)
        self._next_look = 0.0
        self._disabled: frozenset[str] = frozenset()
        super().__init__(app, **options)

    def setup_schedule(self) -> None:
        if not is_postgresql(self.connection.hostname):
            raise ImproperlyConfigured("celery_postgres.beat needs a broker on PostgreSQL")
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        for name, entry in self.schedule.items():
            # Beat itself tries again. Kombu would do so while the run's transaction is open, and would publish on a
            # channel that it has closed.
            entry.options = {**(entry.options or {}), "retry": False}
            if (name and text_or_none(name) is None) or len(name.encode()) > _MAX_NAME:
                raise ImproperlyConfigured(
                    f"celery_postgres.beat cannot store the name of the entry {ascii(name)[:60]}: it contains a NUL or "
                    f"half a surrogate pair, or has more than {_MAX_NAME} bytes"
                )

    @property
    def info(self) -> str:
        """Where the state is, for the banner of `celery beat`."""
        return "    . state -> celery_beat_entry"

    def tick(self, *args: Any, **options: Any) -> float:
        """Send what is due. Returns the seconds to wait: until an entry is due, or, without a database, until the next
        attempt."""
        try:
            if self._session is None:
                self._connect()
            elif time.monotonic() >= self._next_look:
                self._look(self._session)
            seconds = min(float(super().tick(*args, **options)), max(0.0, self._next_look - time.monotonic()))
        except _NOT_SENT_YET as error:
            seconds = self._retry.failed()
            verb = "use" if isinstance(error, SchemaError) else "reach"
            logger.warning("Beat cannot %s its database (%s); next try in %.2f s", verb, loggable(error), seconds)
            self._disconnect()
        else:
            self._retry.succeeded()
        return seconds

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry that is due, unless another beat has."""
        session = self._session
        assert session is not None  # noqa: S101
        following = self.schedule[entry.name]
        at: Any = following.last_run_at  # `_read` has set it
        next_run_at = next_run(following.schedule, at, self.app.now())
        try:
            with session.transaction() as connection:
                ours = BeatStore(session).take(entry.name, entry.total_run_count, at, next_run_at)
                if ours:
                    self._publish(entry, producer, session, connection)
        except _NOT_SENT_YET:
            # It may be this entry alone that cannot be sent now, and due entries are tried in this order.
            self.schedule[entry.name] = self.schedule.pop(entry.name)
            raise
        if not ours:
            self._read(session)  # and with it when the next run is due

    def populate_heap(self, *args: Any, **options: Any) -> None:
        """As Celery's, without the entries that are disabled: `tick` only looks at the first."""
        super().populate_heap(*args, **options)
        heap = [one for one in self._heap or () if one.entry.name not in self._disabled]
        heapq.heapify(heap)
        self._heap = heap

    def close(self) -> None:
        if self._session is not None:
            with suppress(*_NOT_SENT_YET):
                # Celery calls this in its handler of TERM, wherever beat is: what it is sending stays due.
                self._session.roll_back()
                BeatStore(self._session).stop(self._id)
        self._disconnect()
        super().close()

    def _look(self, session: Session) -> None:
        """Note that this beat lives, and do what operators want."""
        if not BeatStore(session).seen(self._id):
            self._start(session)
        self._read(session)

    def _send_now(self, name: str, session: Session) -> None:
        """Send an entry once, beside its schedule, because an operator wants it."""
        try:
            with session.transaction() as connection:
                if BeatStore(session).take_request(name):
                    self._publish(self.schedule[name], self.producer, session, connection)
        except _NOT_SENT_YET as error:
            if session.closed:
                raise
            # The request stays, and what is due does not wait for it.
            logger.warning("The entry %r could not be sent now (%s); next try in %.0f s", name, loggable(error), LOOK_S)
            self._drop_producer()

    def _publish(self, entry: Any, producer: Any, session: Session, connection: Any) -> None:
        fields = {"entry": entry.name, "task_name": entry.task}
        logger.info("Sending the due task %r of the entry %r", entry.task, entry.name, extra=fields)
        session.script("SAVEPOINT entry")
        try:
            with publishing_on(connection):
                result: Any = self.apply_async(entry, producer=producer, advance=False)
            BeatStore(session).sent(entry.name, text_or_none(getattr(result, "id", None)))
        except beat.SchedulingError as error:
            cause = error.__context__
            refusal = _refusal(cause)
            if refusal is not None:
                session.script("ROLLBACK TO SAVEPOINT entry")
                self._drop_producer()
                by, why = refusal
                logger.error(  # noqa: TRY400
                    "The entry %r was not sent: %s (%s)", entry.name, by, loggable(why), extra=fields
                )
            elif isinstance(cause, _NOT_SENT_YET):
                raise cause from None
            else:
                # As with Celery's own scheduler, an error of one entry does not keep the others from being sent. Its
                # text may quote arguments.
                logger.error(  # noqa: TRY400
                    "The entry %r was not sent (%s)", entry.name, type(cause).__name__, extra=fields
                )

    def _connect(self) -> None:
        # The transport has checked its options: setup_schedule asks it for its address.
        options: Options = self.connection.transport.options  # type: ignore[attr-defined]
        self._session = Session(libpq_dsn(self.connection), connect_timeout=options.connect_timeout or 5)
        self._start(self._session)
        self._read(self._session)

    def _start(self, session: Session) -> None:
        zone = str(self.app.timezone)
        BeatStore(session).start(self._id, printable(socket.gethostname()), os.getpid(), zone, list(self.schedule))

    def _disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._drop_producer()

    def _drop_producer(self) -> None:
        """Make a new producer for the next entry: a retry of Kombu closes a producer's channel and opens no other."""
        self.__dict__.pop("producer", None)
        connection = self.__dict__.pop("connection", None)
        if connection is not None:
            connection.release()

    def _read(self, session: Session) -> None:
        """Read the state of the entries, and send what operators want sent now."""
        now, store = self.app.now(), BeatStore(session)
        self._next_look = time.monotonic() + LOOK_S
        rows = store.read(list(self.schedule), now)
        for row in rows:
            entry = self.schedule[row.name]
            # A crontab's hours are those of the zone of this time, as with Celery's own scheduler after a run.
            entry.last_run_at, entry.total_run_count = row.last_run_at.astimezone(self.app.timezone), row.runs
        self._disabled = frozenset(row.name for row in rows if not row.enabled)
        self._heap = None
        store.describe([self._described(row.name, now) for row in rows])
        for row in rows:
            if row.requested:
                self._send_now(row.name, session)

    def _described(self, name: str, now: Any) -> Described:
        entry: Any = self.schedule[name]
        due = None if name in self._disabled else next_run(entry.schedule, entry.last_run_at, now)
        return Described(name, printable(entry.task), words(entry.schedule), due)


def _refusal(error: BaseException | None) -> tuple[str, BaseException] | None:
    """By what the message of this entry was refused for good, and why; None if another attempt may succeed."""
    if isinstance(error, OperationalError):
        error = error.__cause__  # what Kombu's retries ended with
    if isinstance(error, ChannelError):
        return "the broker refused it", error
    if error is None or not is_lasting(error):
        return None
    if isinstance(error, NotPublishedError):
        return f"SQLSTATE {error.sqlstate}", error.__context__ or error
    return ("PostgreSQL refused it", error) if isinstance(error, driver.Error) else None  # of a declaration
