"""How writes reach a database that may not be able to store them now."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from celery.exceptions import Reject, SoftTimeLimitExceeded

from celery_postgres.consumer import history, registry
from celery_postgres.consumer.claims import Claims, collect_with
from celery_postgres.consumer.heartbeat import Heartbeat
from celery_postgres.database import driver, watchdog
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.identity import name_of
from celery_postgres.database.message_store import Claim
from celery_postgres.errors import SchemaError, is_lasting, loggable, primary
from celery_postgres.results.batch_writer import BatchWriter
from celery_postgres.results.connection import ConnectedBackend
from celery_postgres.results.handover import Handover, handover, is_child, is_spawned
from celery_postgres.results.inlet import Inlet
from celery_postgres.results.result_pipe import ResultPipe
from celery_postgres.results.write import Write, record
from celery_postgres.results.writers import (
    batch_writer,
    fallback_writer,
    start_batch_writer,
    start_fallback_writer,
)

logger = logging.getLogger(__name__)


class PersistentBackend(ConnectedBackend):
    """A result backend that never makes an unreachable database the failure of a task.

    A worker keeps what it cannot store until it is stored; the main process keeps it for its prefork children. Only a
    worker that is told to stop gives up, after a while; messages that were to be acknowledged afterwards then run
    again.
    """

    #: Without `result_backend_always_retry`: how long a client retries when it has lost the database.
    PATIENCE_S = 30.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._direct = Backoff()
        self._silent_until = 0.0

    def submit(self, write: Write, claim: Claim | None = None, ends: bool = False) -> None:
        """Have a write stored.

        Args:
            claim: the message to acknowledge in the same transaction, if this process still owns it.
            ends: something follows that must not happen before the write is stored, such as an acknowledgement.

        Raises:
            celery.exceptions.Reject: it could not be stored, and this worker ends. The message runs again.
        """
        if not (write.outcomes or write.parts):
            if not write.attempts:
                return
            claim, ends = None, False  # a task whose result is ignored ends whether or not it is remembered
        write.pickle = self.pickle
        claims = self.claims()
        writer = self.writer(claims)
        if writer is None:
            write.claim = claim
            with _pipe().storing if is_child() else contextlib.nullcontext():
                if not (is_child() and self._pass_on(write, ends)):
                    watchdog.start()
                    self._store(write, ends)
            return
        if claim is not None and claims is not None and claims.carry(claim):
            write.claim = claim
        writer.add(write)

    def _pass_on(self, write: Write, ends: bool) -> bool:
        """In a prefork child: whether the main process has the write now, which stores it within milliseconds."""
        pipe = _pipe()
        try:
            if pipe.includes(write):
                self.flush()  # or this state would be stored first
            if not write.is_end or (ends and write.claim is None):
                return False
            return pipe.offer(name_of(self.dsn), write, self._recover)
        except SoftTimeLimitExceeded:  # of the task, which has ended
            return False

    def _recover(self) -> None:
        """In a prefork child: store what the main process was given and has not stored, for `BatchWriter.PATIENCE_S` at
        most."""
        pipe, retry, begun, due = _pipe(), Backoff(), time.monotonic(), set[str]()
        while writes := pipe.unconfirmed():
            try:
                for write in writes:
                    due.update(record(self.result_store, [write]))
            except (driver.Error, SchemaError) as error:
                if time.monotonic() - begun > BatchWriter.PATIENCE_S:
                    logger.error("Could not store %d results: %s", len(writes), loggable(error))  # noqa: TRY400
                    return
                self._sleep(retry.failed())
            else:
                pipe.forget()
        for chord_id in due:
            self.send_body(chord_id)

    def _store(self, write: Write, ends: bool) -> None:
        """Store it at once. What cannot be stored now, the worker keeps (see `keep`)."""
        keep = self._keeper()
        if keep is None:
            due = self.persistently(lambda: record(self.result_store, [write]))
        elif (tried := self._try(write)) is not None:
            due = tried
        elif keep(write, ends and write.claim is None):
            return
        else:
            raise Reject("its result could not be stored, and this worker ends", requeue=True)
        for chord_id in due:
            self.send_body(chord_id)

    def _try(self, write: Write) -> list[str] | None:
        """The chords that are due; None if it cannot be stored now. For a moment after a failure it does not try."""
        if self._direct.left:
            return None
        try:
            due = record(self.result_store, [write])
        except (driver.Error, SchemaError, SoftTimeLimitExceeded) as error:
            # A soft time limit belongs to the task, which has ended.
            pause = self._direct.failed()
            logger.warning(
                "Cannot store a result here (%s), so the worker keeps it; next try in %.2f s", loggable(error), pause
            )
            return None
        self._direct.succeeded()
        return due

    def _keeper(self) -> Callable[[Write, bool], bool] | None:
        """Keeps what cannot be stored now: for a prefork child its main process, for a worker whose broker is elsewhere
        its fallback writer. None in a client. Called with `wait`, it returns whether the write is stored."""
        if is_child():
            return self._hand_over
        writer = fallback_writer(name_of(self.dsn))
        if writer is None:
            return None
        if "celery.concurrency.prefork" in sys.modules:  # in its main process, whose loop must go on
            return lambda write, _: writer.keep(write, wait=False)
        return writer.keep

    def _hand_over(self, write: Write, wait: bool) -> bool:
        here, retry = _handover(), Backoff()
        while True:
            try:
                return here.keep(name_of(self.dsn), write, wait)
            except SoftTimeLimitExceeded:
                continue
            except OSError as error:  # the main process is gone, or stores nothing in this database
                due = self._try(write)
                if due is not None:
                    for chord_id in due:
                        self.send_body(chord_id)
                    return True
                logger.warning("Cannot hand a result over to the worker's main process (%s)", error)
                self._sleep(retry.failed())

    def keep(self, write: Write, wait: bool) -> bool:
        """In the main process: keep what a child has handed over. With `wait` it returns when that is stored, and
        False if it is not."""
        claim, write.claim = write.claim, None
        claims = self.claims()
        if claim is not None and claims is not None and claims.carry(claim):
            write.claim = claim
        writer = self.writer(claims) or fallback_writer(name_of(self.dsn))
        assert writer is not None  # noqa: S101  # `start_maintenance` has started one of the two
        return writer.keep(write, wait)

    def persistently(self, work: Callable[[], Any]) -> Any:
        """Call `work` until the database can do it, for `PATIENCE_S`.

        A prefork child waits without limit for what a person has to mend (missing tables or rights), as its worker
        does: an error would acknowledge the task, and each one after it. A spawned child, which cannot hand a result
        over, waits without limit for the database too.
        """
        begun, retry = time.monotonic(), Backoff()
        spawned = is_spawned()
        while True:
            try:
                return work()
            except (driver.Error, SchemaError) as error:
                if isinstance(error, SchemaError):
                    verb, patient = "use", spawned or is_child()
                else:
                    patience_s = float("inf") if spawned or self.always_retry else self.PATIENCE_S
                    verb, patient = "reach", time.monotonic() - begun <= patience_s
                if is_lasting(error) or not patient:
                    raise
                pause = retry.failed()
                logger.warning("Cannot %s the result backend (%s); next try in %.2f s", verb, loggable(error), pause)
                self._sleep(pause)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, driver.LOST_CONNECTION)

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """Celery retries a read, without end under `result_backend_always_retry`, and logs nothing about it."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + Backoff.LONGEST_S
            logger.warning("Cannot reach the result backend (%s); trying again", primary(exc))

    # -- the writer of this process

    def claims(self) -> Claims | None:
        """The claims of this process in our database; None in a process that does not consume there."""
        heartbeat = self._heartbeat()
        return None if heartbeat is None else heartbeat.claims

    def _heartbeat(self) -> Heartbeat | None:
        heartbeats = registry.heartbeats()
        if not heartbeats:  # as in a prefork child, which asks for each task
            return None
        mine = name_of(self.dsn)
        return next((one for one in heartbeats if name_of(one.sessions.dsn) == mine), None)

    def writer(self, claims: Claims | None) -> BatchWriter | None:
        """The batch writer of this process; None in a process that does not consume, and never did."""
        database = name_of(self.dsn)
        writer = batch_writer(database)
        if writer is not None or claims is None:
            return writer
        return start_batch_writer(database, *self._writers_arguments())

    def start_maintenance(self) -> None:
        """Called in every worker, also in one that never stores a result. Maintenance runs in the batch writer; in a
        worker whose broker is elsewhere it runs in a fallback writer."""
        history.keep(self.kept)
        database = name_of(self.dsn)
        writer = self.writer(self.claims())
        if writer is None:
            writer = start_fallback_writer(database, *self._writers_arguments())
        here = handover()
        if here is None:
            return
        here.serve(database, self.keep)
        if "celery.concurrency.prefork" in sys.modules and here.results.serve(database):
            writer.read_from(Inlet(here.results, self.claims))
            collect_with(writer.take_in)

    def _writers_arguments(self) -> tuple[Any, ...]:
        return self.result_store, self._settled, self.send_body, self.maintain, self._heartbeat

    @staticmethod
    def _settled(claims: list[Claim], *, early: bool = False) -> None:
        """These claims were carried by whichever heartbeat: a writer outlives a worker's connection."""
        for heartbeat in registry.heartbeats():
            heartbeat.claims.settled(claims, early=early)

    def flush(self) -> None:
        """Wait until everything that this process has submitted is stored."""
        writer = batch_writer(name_of(self.dsn))
        if writer is not None:
            writer.flush()
        elif is_child() and _pipe().unconfirmed():
            self._flush_pipe()

    def _flush_pipe(self) -> None:
        try:
            # Stored after everything that has come through the pipe.
            stored = _handover().keep(name_of(self.dsn), Write(), wait=True)
        except OSError:  # the main process is gone
            stored = False
        if stored:
            _pipe().forget()
        else:
            self._recover()

    def send_body(self, chord_id: str) -> None:
        """Called when the last part of a chord is stored."""
        raise NotImplementedError

    def maintain(self) -> float:
        """Called in a worker now and then; returns the seconds until the next call."""
        raise NotImplementedError


def _handover() -> Handover:
    here = handover()
    assert here is not None  # noqa: S101  # `is_child` is only true with one
    return here


def _pipe() -> ResultPipe:
    return _handover().results
