"""How the result backend stores what becomes of tasks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg2
from billiard.process import current_process
from celery import states
from celery.backends import base as celery_base
from celery.canvas import maybe_signature
from celery.exceptions import ImproperlyConfigured, Reject, TimeLimitExceeded
from celery.utils.time import maybe_timedelta
from kombu.exceptions import OperationalError
from kombu.utils import json as kombu_json
from kombu.utils.encoding import ensure_bytes

from celery_postgres import session as sessions_module
from celery_postgres import silence, transport
from celery_postgres.address import database_of, libpq_dsn, masked, parsed
from celery_postgres.attendant import Attendant
from celery_postgres.chords import contexts_of, is_compound, last_of
from celery_postgres.errors import SchemaError, UnstorableResultError, loggable, primary
from celery_postgres.outcomes import Claim, Outcome, Part, Write, integer, record, short, text
from celery_postgres.poison import described
from celery_postgres.session import Sessions
from celery_postgres.values import dump
from celery_postgres.writer import Writer, new_writer, writers

logger = logging.getLogger(__name__)

#: Without the types of celery-types, which describe other backends' attributes.
BaseBackend: Any = celery_base.BaseBackend

#: Widths of stock's columns.
LONGEST_ID, _LONGEST_STATE = 155, 50
_TAG = re.compile(r"\d+\.\d+")


class StoringBackend(BaseBackend):  # type: ignore[misc]
    """The half of the backend that a worker needs.

    One task's final state, its part in a chord and the end of its message are one `Write`, which is stored whole. In a
    process that consumes, a `Writer` stores those of several tasks together; elsewhere (a prefork child, a client)
    each is stored at once.
    """

    #: Without `result_backend_always_retry`, how long a lost database is tried again.
    PATIENCE_S = 30.0
    FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 2.0

    def __init__(
        self, url: str | None = None, dburi: str | None = None, engine_options: Any = None, **options: Any
    ) -> None:
        super().__init__(url=url, expires_type=maybe_timedelta, **options)
        conf = self.app.conf
        self.url = url or dburi or conf.database_url
        if not self.url:
            raise ImproperlyConfigured("the result backend has no address: set result_backend to db+postgresql://…")
        if self.serializer == "pickle":
            raise ImproperlyConfigured(
                "result_serializer = 'pickle' is not for this result backend: reading its results would execute code. "
                "Use 'json'; dates, Decimal, UUID, sets and tuples are stored as they are"
            )
        if conf.database_table_names or conf.database_table_schemas:
            raise ImproperlyConfigured(
                "database_table_names and database_table_schemas are not for this result backend: its tables have "
                "Celery's own names. For another schema set search_path in the address (?options=-csearch_path%3D…)"
            )
        self.dsn = parsed(self.url, "result backend")
        arguments = {**(conf.database_engine_options or {}), **(engine_options or {})}.get("connect_args") or {}
        self._connect_timeout = int(arguments.get("connect_timeout") or 5)
        self._pid = 0
        self._sessions: Sessions | None = None
        self._thread = threading.local()
        self._silent_until = 0.0
        _everyone.add(self)

    def as_uri(self, include_password: bool = False) -> str:
        return str(self.url) if include_password else masked(str(self.url))

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        # Not its address, which has a password in it: whoever reads it uses its own application's.
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires})

    @property
    def is_async(self) -> bool:
        return True

    @property
    def sessions(self) -> Sessions:
        """Shared with the broker where that has the same address; anew in a forked child."""
        if self._sessions is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._sessions = sessions_module.acquire(self.dsn, {"statement_timeout": "30s"}, self._connect_timeout)
        return self._sessions

    # -- writing

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
    ) -> Any:
        """Store a state.

        Raises:
            UnstorableResultError: the result has a type that JSON does not know; Celery makes that the task's failure.
        """
        result = self.encode_result(result, state)
        if not isinstance(task_id, str) or len(task_id) > LONGEST_ID:
            # An error would go the way of all errors, to a failure that is stored under the same id, and end a worker.
            logger.error("the state of a task is not stored: its id is no text of %d characters or less", LONGEST_ID)
            return result
        outcome = self._outcome(task_id, result, state, traceback, request)
        gathered = getattr(self._thread, "gathered", None)
        if gathered is None:
            self._submit(Write([outcome]))
        else:
            gathered.outcomes.append(outcome)
        return result

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        """Count a part of a chord; who counts the last one sends the body."""
        gathered = getattr(self._thread, "gathered", None)
        write = Write() if gathered is None else gathered
        stored = any(one.task_id == request.id for one in write.outcomes)
        part = self._part(request, state, None if stored else dump(self.encode_result(result, state)))
        if part is not None:
            write.parts.append(part)
            if gathered is None:
                self._submit(write)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """The result, the chord part and the message's end in one transaction."""
        with self._gathering() as write:
            super().mark_as_done(task_id, result, request=request, store_result=store_result, state=state)
        self._submit(write, self._settles(request))

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """The same, unless errbacks are to be sent: these may look at the result, so they come after it, and the
        message after them.

        A failure is stored also where the exception, the rest of the chain, the chord or an errback cannot be dealt
        with: an error from here would end the worker, or keep one of its slots.
        """
        with self._gathering() as write:
            try:
                super().mark_as_failure(
                    task_id, exc, traceback=traceback, request=request, store_result=store_result, call_errbacks=False,
                    state=state,
                )  # fmt: skip
                if store_result and request is not None:
                    self._fail_rest_of_chain(request, exc, traceback, state)
            except Exception as error:  # nothing in here asks the database
                logger.error(f"a task's failure is stored without all that hangs on it: {described(error)}")  # noqa: TRY400
                if store_result and not write.outcomes:
                    self.store_result(task_id, UnstorableResultError("the exception of this task has no form"), state)
        errbacks = request is not None and call_errbacks and request.errbacks
        self._submit(write, None if errbacks else self._settles(request, exc))
        if errbacks:
            self._flush()
            try:
                self._call_task_errbacks(request, exc, traceback)
            except (psycopg2.Error, SchemaError, OperationalError):
                raise
            except Exception as error:
                logger.error(f"an errback cannot be called: {described(error)}")  # noqa: TRY400  no stack: it may quote

    def _fail_rest_of_chain(self, request: Any, exc: BaseException, traceback: Any, state: str) -> None:
        """Celery fails the single tasks of the rest of the chain. Of a chord there its body would be waited for."""
        # What stands for the request of an unknown task has no chain at all.
        for element in getattr(request, "chain", None) or ():
            rest = maybe_signature(element, app=self.app)
            if is_compound(rest):
                for context in contexts_of(last_of(rest)):
                    self.store_result(context.id, exc, state, traceback=traceback, request=context)
                    if context.chord:
                        self.on_chord_part_return(context, state, exc)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        with self._gathering() as write:
            super().mark_as_revoked(task_id, reason, request=request, store_result=store_result, state=state)
        self._submit(write)

    @contextlib.contextmanager
    def _gathering(self) -> Iterator[Write]:
        """What this thread stores in the block goes into one write, which is the caller's to submit."""
        outer = getattr(self._thread, "gathered", None)
        self._thread.gathered = write = Write()
        try:
            yield write
        finally:
            self._thread.gathered = outer

    def _outcome(self, task_id: str, result: Any, state: str, traceback: Any, request: Any) -> Outcome:
        if len(state) > _LONGEST_STATE:
            raise UnstorableResultError(f"a state has at most {_LONGEST_STATE} characters: this one has {len(state)}")
        # `_get_result_meta` is half of what a result costs here, and all but the children is for these.
        extended: dict[str, Any] = {}
        if self.app.conf.result_extended:
            extended = self._get_result_meta(
                result=None, state=state, traceback=traceback, request=request, format_date=False, encode=True
            )
        children = self.current_task_children(request)
        return Outcome(
            task_id=text(task_id),
            status=text(state),
            result=None if result is None else dump(result),
            # Also of what has not ended: without it the row of a task that was lost would never expire.
            date_done=datetime.now(UTC).replace(tzinfo=None),
            traceback=None if traceback is None else text(traceback),
            children=json.dumps(children).encode() if children else None,
            name=short(extended.get("name")),
            args=_encoded(extended.get("args")),
            kwargs=_encoded(extended.get("kwargs")),
            worker=short(extended.get("worker")),
            retries=integer(extended.get("retries")),
            queue=short(extended.get("queue")),
        )

    def _part(self, request: Any, state: str, result: bytes | None) -> Part | None:
        if not request.group or not request.id:
            return None
        return Part(
            chord_id=text(request.group),
            task_id=text(request.id),
            position=integer(getattr(request, "group_index", None)),
            status=state,
            result=result,
            body=text(kombu_json.dumps(request.chord)),
        )

    def _settles(self, request: Any, error: BaseException | None = None) -> Claim | None:
        """The message that Celery will acknowledge because of this final state, if that is certain.

        It will not where the task has rejected it: Celery 5.7 stores that as a failure, and rejects then.
        """
        tag = (getattr(request, "properties", None) or {}).get("delivery_tag")
        if not isinstance(tag, str) or not _TAG.fullmatch(tag) or not self._shares_broker():
            return None
        task = self.app.tasks.get(request.task)
        if task is None or not task.acks_late or isinstance(error, Reject):
            return None
        if error is not None:
            # Celery 5.7 has a setting for each, which it fills from the one that 5.6 has.
            which = "acks_on_timeout" if isinstance(error, TimeLimitExceeded) else "acks_on_failure"
            if not getattr(task, which, task.acks_on_failure_or_timeout):
                return None
        message, _, fence = tag.partition(".")
        return int(message), int(fence)

    def _shares_broker(self) -> bool:
        """Whether the broker is this package's and in the same database."""
        shares: bool | None = getattr(self, "_shared", None)
        if shares is None:
            broker = self.app.connection_for_read().transport
            ours = isinstance(broker, transport.Transport)
            shares = self._shared = ours and database_of(libpq_dsn(broker.client)) == database_of(self.dsn)
        return shares

    def _submit(self, write: Write, claim: Claim | None = None) -> None:
        if not (write.outcomes or write.parts):
            return
        attendant = self._attendant()
        writer = self._writer(attendant)
        if writer is None:
            silence.start()
            write.claim = claim
            for chord in self._persistently(lambda: record(self.sessions, [write])):
                self._send_body(chord)
            return
        if claim is not None and attendant is not None and attendant.carry(claim):
            write.claim = claim
        writer.add(write)

    def _persistently(self, work: Any) -> Any:
        """Do it again while the database is away; in a pool's child also while something is missing there, for which
        its worker waits as well: an error would acknowledge the task, and each one after it."""
        begun, retry = time.monotonic(), self.FIRST_RETRY_S
        while True:
            try:
                return work()
            except (psycopg2.OperationalError, psycopg2.InterfaceError, SchemaError) as error:
                if isinstance(error, SchemaError):
                    what, patient = "used", current_process().name != "MainProcess"
                else:
                    what, patient = "reached", self.always_retry or time.monotonic() - begun <= self.PATIENCE_S
                if not patient:
                    raise
                logger.warning(f"the result backend cannot be {what} (%s); next try in %.2f s", loggable(error), retry)
                self._sleep(retry)
                retry = min(retry * 2, self.LONGEST_RETRY_S)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, (psycopg2.OperationalError, psycopg2.InterfaceError))

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """Celery tries a read again, without end under `result_backend_always_retry`, and says nothing of it."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + self.LONGEST_RETRY_S
            logger.warning("the result backend cannot be reached (%s); it is tried again", primary(exc))

    # -- the writer of this process

    def _attendant(self) -> Attendant | None:
        """Who keeps this process' claims in our database alive: there is one in a worker's own process."""
        mine = database_of(self.dsn)
        return next((one for one in transport.attendants() if database_of(one.sessions.dsn) == mine), None)

    def _writer(self, attendant: Attendant | None) -> Writer | None:
        """The writer of this process; none where there is no attendant, nor was."""
        key = database_of(self.dsn)
        if attendant is None:
            return writers.get(key)
        return writers.get(key) or new_writer(key, self.sessions, self._settled, self._send_body, self._do_chores)

    @staticmethod
    def _settled(claims: list[Claim]) -> None:
        """Tell whichever attendant carried them: a writer outlives a worker's connection."""
        for attendant in transport.attendants():
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


def _encoded(value: Any) -> bytes | None:
    return None if value is None else bytes(ensure_bytes(value))


_everyone: weakref.WeakSet[StoringBackend] = weakref.WeakSet()


def _forget_in_child() -> None:
    for backend in list(_everyone):
        backend._thread = threading.local()


os.register_at_fork(after_in_child=_forget_in_child)
