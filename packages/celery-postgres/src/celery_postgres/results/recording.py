"""How the result backend stores what becomes of tasks."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import threading
import traceback as traceback_module
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import celery
import psycopg2
from celery import states
from celery.canvas import maybe_signature
from celery.exceptions import ImproperlyConfigured, Reject, TimeLimitExceeded
from celery.utils.time import maybe_timedelta
from kombu.exceptions import OperationalError
from kombu.utils import json as kombu_json
from kombu.utils.encoding import ensure_bytes

from celery_postgres.broker import transport
from celery_postgres.consumer.poison import described
from celery_postgres.database import pool
from celery_postgres.database.address import database_of, libpq_dsn, masked, parsed
from celery_postgres.database.pool import Sessions
from celery_postgres.errors import SchemaError, UnstorableResultError, is_lasting
from celery_postgres.results.chords import contexts_of, is_compound, last_of
from celery_postgres.results.persistence import KeepingBackend
from celery_postgres.results.result_store import Claim, Outcome, Part, Write, integer, short, text
from celery_postgres.results.serializer import Pickle, dump

logger = logging.getLogger(__name__)

#: Widths of stock's columns.
LONGEST_ID, _LONGEST_STATE = 155, 50
_TAG = re.compile(r"\d+\.\d+")


class StoringBackend(KeepingBackend):
    """The half of the backend that a worker needs.

    One task's final state, its part in a chord and the end of its message are one `Write`, which is stored whole. In a
    process that consumes, a `Writer` stores those of several tasks together; elsewhere (a prefork child, a client, a
    worker whose broker is in another database) each is stored at once.
    """

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
        self.pickle = _pickle_option(conf.result_backend_transport_options)
        self.dsn = parsed(self.url, "result backend")
        arguments = {**(conf.database_engine_options or {}), **(engine_options or {})}.get("connect_args") or {}
        self._connect_timeout = int(arguments.get("connect_timeout") or 5)
        self._pid = 0
        self._sessions: Sessions | None = None
        self._thread = threading.local()
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
            self._sessions = pool.acquire(self.dsn, {"statement_timeout": "30s"}, self._connect_timeout)
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
        part = self._part(request, state, None if stored else dump(self.encode_result(result, state), self.pickle))
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
        self._submit(write, self._settles(request), ends=self._is_late(request))

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

        A task that has succeeded and whose callbacks could not be sent now, because the broker was away, has not
        failed: if its message was to be acknowledged late, it runs again.
        """
        if self._is_late(request) and continuation_not_sent(exc):
            self._run_again(request, exc)
            return
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
        claim = None if errbacks else self._settles(request, exc)
        self._submit(write, claim, ends=bool(errbacks) or self._is_late(request))
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
            result=None if result is None else dump(result, self.pickle),
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
        claim = self._claim_of(request)
        if claim is None:
            return None
        task = self.app.tasks.get(request.task)
        if task is None or not task.acks_late or isinstance(error, Reject):
            return None
        if error is not None:
            # Celery 5.7 has a setting for each, which it fills from the one that 5.6 has.
            which = "acks_on_timeout" if isinstance(error, TimeLimitExceeded) else "acks_on_failure"
            if not getattr(task, which, task.acks_on_failure_or_timeout):
                return None
        return claim

    def _claim_of(self, request: Any) -> Claim | None:
        """The message of a task, if it is claimed in our database."""
        tag = (getattr(request, "properties", None) or {}).get("delivery_tag")
        if not isinstance(tag, str) or not _TAG.fullmatch(tag) or not self._shares_broker():
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

    def _is_late(self, request: Any) -> bool:
        """Whether its message is acknowledged after what is stored now."""
        name = getattr(request, "task", None)
        task = self.app.tasks.get(name) if isinstance(name, str) else None
        return task is not None and bool(task.acks_late) and not getattr(request, "is_eager", False)

    def _run_again(self, request: Any, exc: BaseException) -> None:
        """Let a message run again whose task ends now, although Celery will acknowledge it."""
        attendant, claim = self._attendant(), self._claim_of(request)
        logger.warning("what follows task %s could not be sent: it runs again", request.id)
        if attendant is None or claim is None:
            raise Reject("what follows the task could not be sent", requeue=True) from exc
        attendant.return_later(claim)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """As Celery's, but with a list for the arguments, as in JSON."""
        prepared = super().prepare_exception(exc, serializer)
        if isinstance(prepared, dict) and isinstance(prepared.get("exc_message"), tuple):
            prepared["exc_message"] = list(prepared["exc_message"])
        return prepared


def continuation_not_sent(error: BaseException) -> bool:
    """Whether Celery has raised it after the task's own end, because the broker could not take now what follows it: a
    link, or the rest of its chain."""
    if is_lasting(error) or not isinstance(error, psycopg2.Error | SchemaError | OperationalError):
        return False
    frames = traceback_module.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == "_dispatch_callbacks_and_chain" for frame, _ in itertools.islice(frames, 3))


def _pickle_option(options: Any) -> Pickle:
    """What becomes of pickles here; unless it is said, what the stock backend of this Celery reads is written."""
    default = Pickle.READ if celery.VERSION >= (5, 7) else Pickle.WRITE
    try:
        return Pickle((options or {}).get("pickle", default))
    except ValueError:
        known = ", ".join(Pickle)
        raise ImproperlyConfigured(f"`pickle` in result_backend_transport_options is one of {known}") from None


def _encoded(value: Any) -> bytes | None:
    return None if value is None else bytes(ensure_bytes(value))


_everyone: weakref.WeakSet[StoringBackend] = weakref.WeakSet()


def _forget_in_child() -> None:
    for backend in list(_everyone):
        backend._thread = threading.local()


os.register_at_fork(after_in_child=_forget_in_child)
