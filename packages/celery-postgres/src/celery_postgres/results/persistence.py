"""How what becomes of tasks reaches the database, which may not be able to store it now."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg2
from celery.backends import base as celery_base
from celery.exceptions import Reject, SoftTimeLimitExceeded

from celery_postgres.consumer import registry
from celery_postgres.consumer.heartbeat import Attendant
from celery_postgres.database import watchdog
from celery_postgres.database.address import database_of
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.pool import Sessions
from celery_postgres.errors import SchemaError, is_lasting, loggable, primary
from celery_postgres.results.batch_writer import Writer, new_writer, writers
from celery_postgres.results.handover import handover, is_child
from celery_postgres.results.result_store import Claim, Write, record
from celery_postgres.results.serializer import Pickle

logger = logging.getLogger(__name__)

#: Without the types of celery-types, which describe other backends' attributes.
BaseBackend: Any = celery_base.BaseBackend


class KeepingBackend(BaseBackend):  # type: ignore[misc]
    """What a `Write` goes through.

    That the database cannot store something now is never the task's failure. A worker keeps what it could not store, a
    prefork child by its main process, until it is stored. Only a worker that is told to stop gives up, after a while,
    and then messages that were to be acknowledged afterwards run again.
    """

    #: Without `result_backend_always_retry`, how long a client tries a lost database again.
    PATIENCE_S = 30.0

    dsn: str
    pickle: Pickle

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._direct = Backoff()
        self._silent_until = 0.0

    @property
    def sessions(self) -> Sessions:
        raise NotImplementedError

    def _submit(self, write: Write, claim: Claim | None = None, ends: bool = False) -> None:
        """Have it stored. With `ends` something follows that must not be before it, such as an acknowledgement.

        Raises:
            celery.exceptions.Reject: it could not be stored, and this worker ends. The message runs again.
        """
        if not (write.outcomes or write.parts):
            return
        write.pickle = self.pickle
        attendant = self._attendant()
        writer = self._writer(attendant)
        if writer is None:
            watchdog.start()
            write.claim = claim
            self._store(write, ends)
            return
        if claim is not None and attendant is not None and attendant.carry(claim):
            write.claim = claim
        writer.add(write)

    def _store(self, write: Write, ends: bool) -> None:
        """Store it at once. What cannot be stored now, a worker keeps (see `_kept`)."""
        keep = self._keeper()
        if keep is None:
            due = self._persistently(lambda: record(self.sessions, [write]))
        elif (tried := self._try(write)) is not None:
            due = tried
        elif keep(write, ends and write.claim is None):
            return
        else:
            raise Reject("its result could not be stored, and this worker ends", requeue=True)
        for chord in due:
            self._send_body(chord)

    def _try(self, write: Write) -> list[str] | None:
        """The chords that are due; None if it cannot be stored now, and for a moment after that without a look."""
        if self._direct.left:
            return None
        try:
            due = record(self.sessions, [write])
        except (psycopg2.Error, SchemaError, SoftTimeLimitExceeded) as error:
            # A soft time limit is of the task, which has ended.
            pause = self._direct.failed()
            logger.warning(
                "a result cannot be stored here (%s), the worker keeps it; next try in %.2f s", loggable(error), pause
            )
            return None
        self._direct.succeeded()
        return due

    def _keeper(self) -> Callable[[Write, bool], bool] | None:
        """Who keeps what cannot be stored now: for a prefork child its main process, for a worker whose broker is
        elsewhere its writer. For a client nobody. Told to wait, it returns whether it is stored."""
        if is_child():
            return self._hand_over
        writer = writers.get(("chores", *database_of(self.dsn)))
        if writer is None:
            return None
        if "celery.concurrency.prefork" in sys.modules:  # in its main process, whose loop must go on
            return lambda write, _: writer.keep(write, wait=False)
        return writer.keep

    def _hand_over(self, write: Write, wait: bool) -> bool:
        here, retry = handover(), Backoff()
        assert here is not None  # noqa: S101
        while True:
            try:
                return here.keep(database_of(self.dsn), write, wait)
            except SoftTimeLimitExceeded:
                continue
            except OSError as error:  # the main process is gone, or has another database
                due = self._try(write)
                if due is not None:
                    for chord in due:
                        self._send_body(chord)
                    return True
                logger.warning("a result cannot be given to the worker (%s)", error)
                self._sleep(retry.failed())

    def _kept(self, write: Write, wait: bool) -> bool:
        """In the main process: keep what a child has handed over; with `wait` until it is stored, and whether it is."""
        claim, write.claim = write.claim, None
        attendant = self._attendant()
        if claim is not None and attendant is not None and attendant.carry(claim):
            write.claim = claim
        writer = self._writer(attendant) or writers[("chores", *database_of(self.dsn))]
        return writer.keep(write, wait)

    def _persistently(self, work: Any) -> Any:
        """Do it again while the database cannot, for a while; in a pool's child for ever what somebody has to mend, as
        its worker waits for it: an error would acknowledge the task, and each one after it."""
        begun, retry = time.monotonic(), Backoff()
        while True:
            try:
                return work()
            except (psycopg2.Error, SchemaError) as error:
                if isinstance(error, SchemaError):
                    what, patient = "used", is_child()
                else:
                    what, patient = "reached", self.always_retry or time.monotonic() - begun <= self.PATIENCE_S
                if is_lasting(error) or not patient:
                    raise
                pause = retry.failed()
                logger.warning(f"the result backend cannot be {what} (%s); next try in %.2f s", loggable(error), pause)
                self._sleep(pause)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, (psycopg2.OperationalError, psycopg2.InterfaceError))

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """Celery tries a read again, without end under `result_backend_always_retry`, and says nothing of it."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + Backoff.LONGEST_S
            logger.warning("the result backend cannot be reached (%s); it is tried again", primary(exc))

    # -- the writer of this process

    def _attendant(self) -> Attendant | None:
        """Who keeps this process' claims in our database alive: there is one in a worker's own process."""
        mine = database_of(self.dsn)
        return next((one for one in registry.heartbeats() if database_of(one.sessions.dsn) == mine), None)

    def _writer(self, attendant: Attendant | None) -> Writer | None:
        """The writer of this process; none where there is no attendant, nor was."""
        key = database_of(self.dsn)
        if attendant is None:
            return writers.get(key)
        return writers.get(key) or new_writer(key, self.sessions, self._settled, self._send_body, self._do_chores)

    @staticmethod
    def _settled(claims: list[Claim]) -> None:
        """Tell whichever attendant carried them: a writer outlives a worker's connection."""
        for attendant in registry.heartbeats():
            attendant.settled(claims)

    def _flush(self) -> None:
        writer = writers.get(database_of(self.dsn))
        if writer is not None:
            writer.flush()

    def _send_body(self, chord: str) -> None:
        """Called when the last part of a chord is stored."""
        raise NotImplementedError

    def _do_chores(self) -> float:
        """Called in a worker now and then; returns the seconds to the next time."""
        raise NotImplementedError
