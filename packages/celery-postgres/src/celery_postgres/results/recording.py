"""How the result backend records the states, results and chord parts of tasks."""

from __future__ import annotations

import functools
import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from celery import states
from celery.canvas import maybe_signature
from celery.exceptions import Reject
from kombu.utils import json as kombu_json
from kombu.utils.encoding import ensure_bytes

from celery_postgres.broker import transport
from celery_postgres.compat.publish_patience import AFTER_A_PAUSE
from celery_postgres.consumer.poison import described
from celery_postgres.database.address import libpq_dsn
from celery_postgres.database.driver import Error
from celery_postgres.database.identity import recognizes
from celery_postgres.database.message_store import Claim
from celery_postgres.database.result_store import Outcome, Part
from celery_postgres.errors import SchemaError, UnstorableResultError, is_temporary, loggable
from celery_postgres.results import attempts
from celery_postgres.results.acknowledgement import claim_of_task, continuation_not_sent, is_acknowledged
from celery_postgres.results.canvas import contexts_of, is_compound, last_of
from celery_postgres.results.columns import LONGEST_ID, LONGEST_STATE, integer, short, text
from celery_postgres.results.description import description_of, history_of
from celery_postgres.results.never_ran import because_of, cause_of, told
from celery_postgres.results.remembering import RememberingBackend
from celery_postgres.results.serializer import dump
from celery_postgres.results.write import Write

logger = logging.getLogger(__name__)

#: Until then a database that could not be reached counts as another one.
_ASKS_AGAIN_S = 30.0


class RecordingBackend(RememberingBackend):
    """The half of the backend that a worker needs.

    A task's final state, its part in a chord and the acknowledgement of its message are one `Write`, which is stored
    completely or not at all. In a process that consumes, a `BatchWriter` stores the writes of several tasks together;
    elsewhere (a prefork child, a client, a worker whose broker is in another database) each is stored at once.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shares_broker: bool | None = None
        self._asks_again = 0.0

    @functools.cached_property
    def _is_extended(self) -> bool:
        """Read once: Celery's settings take 4 us each time, a tenth of what a child needs for a result."""
        return bool(self.app.conf.result_extended)

    @functools.cached_property
    def _tasks(self) -> Any:
        """The application's registry, which stays the same: asking for it takes 3 us each time."""
        return self.app.tasks

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
    ) -> Any:
        """Store a state.

        Raises:
            UnstorableResultError: the result has a type that JSON does not know; Celery makes that the task's failure.
        """
        result = self.encode_result(result, state)
        if not isinstance(task_id, str) or len(task_id) > LONGEST_ID:
            # An exception would become a failure, which is stored under the same id, and so end the worker.
            logger.error("Cannot store the state of a task: its id is not a text of at most %d characters", LONGEST_ID)
            return result
        outcome = self._outcome(task_id, result, state, traceback, request)
        collected = self._collected
        if collected is None:
            self.submit(Write([outcome]))
        else:
            collected.outcomes.append(outcome)
        return result

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        """Count a part of a chord; the process that counts the last one sends the body."""
        collected = self._collected
        write = Write() if collected is None else collected
        own = next((one for one in write.outcomes if one.task_id == request.id), None)
        value: bytes | None
        if own is None:
            value = dump(self.encode_result(result, state), self.pickle)
        else:  # it is in the task's own row, as long as that stays
            value = own.result if self.expiry.chords_outlive_results else None
        part = self._part(request, state, value)
        if part is not None:
            write.parts.append(part)
            if collected is None:
                self.submit(write)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """Store the result, count the chord part and acknowledge the message, in one transaction."""
        with self._collecting() as write:
            super().mark_as_done(task_id, result, request=request, store_result=store_result, state=state)
        late = self._is_late(request)
        self.submit(write, self._acknowledged_claim(request) if late else None, ends=late)

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
        """Store the failure, count the chord part and acknowledge the message, in one transaction.

        If there are errbacks, they may read the result: so they are sent after it is stored, and the message is
        acknowledged after them.

        A failure is also stored when the exception, the rest of the chain, the chord or an errback cannot be processed:
        an exception from here would end the worker, or leak one of its slots.

        A task whose callbacks or errbacks could not be sent, because a database was unreachable, has not ended: if its
        message is acknowledged late, it runs again after a pause.
        """
        if self._is_late(request) and continuation_not_sent(exc):
            self._run_again(request, exc)
            return
        with self._collecting() as write, because_of(cause_of(task_id, request)):
            try:
                super().mark_as_failure(
                    task_id, exc, traceback=traceback, request=request, store_result=store_result, call_errbacks=False,
                    state=state,
                )  # fmt: skip
                if store_result and request is not None:
                    self._fail_rest_of_chain(request, exc, traceback, state)
                self._remember(write, attempts.FAILED, task_id, exc, traceback, request)
            except Exception as error:  # nothing in here uses the database
                logger.error(  # noqa: TRY400  # its traceback may quote arguments
                    "Storing the failure of a task without everything that depends on it: %s", described(error)
                )
                if store_result and not write.outcomes:
                    self.store_result(task_id, UnstorableResultError("the exception of this task has no form"), state)
        errbacks = request is not None and call_errbacks and request.errbacks
        claim = None if errbacks else self._acknowledged_claim(request, exc)
        self.submit(write, claim, ends=bool(errbacks) or self._is_late(request))
        if errbacks:
            self.flush()
            try:
                self._call_task_errbacks(request, exc, traceback)
            except Exception as error:
                temporary = is_temporary(error)
                if temporary and self._is_late(request):
                    self._run_again(request, error)
                    return
                why = loggable(error) if temporary else described(error)
                logger.error("Cannot call an errback: %s", why)  # noqa: TRY400  # a traceback may quote

    def _fail_rest_of_chain(self, request: Any, exc: BaseException, traceback: Any, state: str) -> None:
        """Celery fails the single tasks in the rest of the chain. Clients would wait without end for the body of a
        chord in it, so that fails here."""
        # The placeholder request of an unknown task has no chain at all.
        for element in getattr(request, "chain", None) or ():
            rest = maybe_signature(element, app=self.app)
            if is_compound(rest):
                for context in contexts_of(last_of(rest)):
                    self.store_result(context.id, exc, state, traceback=traceback, request=context)
                    if context.chord:
                        self.on_chord_part_return(context, state, exc)

    def _outcome(self, task_id: str, result: Any, state: str, traceback: Any, request: Any) -> Outcome:
        if len(state) > LONGEST_STATE:
            raise UnstorableResultError(f"a state has at most {LONGEST_STATE} characters: this one has {len(state)}")
        # `_get_result_meta` is half of the cost of a result here, and without `result_extended` only its children are
        # needed.
        extended: dict[str, Any] = {}
        if self._is_extended:
            extended = self._get_result_meta(
                result=None, state=state, traceback=traceback, request=request, format_date=False, encode=True
            )
        elif self.options.describe:
            extended = description_of(request)
        children = self.current_task_children(request)
        history: dict[str, Any] = {}
        if self.options.describe:
            extended, history = told(task_id, extended, history_of(request))
        return Outcome(
            task_id=text(task_id),
            status=text(state),
            result=None if result is None else dump(result, self.pickle),
            # Also for a task that has not ended: without it the row of a lost task would never expire.
            date_done=datetime.now(UTC).replace(tzinfo=None),
            traceback=None if traceback is None else text(traceback),
            children=json.dumps(children).encode() if children else None,
            name=short(extended.get("name")),
            args=_encoded(extended.get("args")),
            kwargs=_encoded(extended.get("kwargs")),
            worker=short(extended.get("worker")),
            retries=integer(extended.get("retries")),
            queue=short(extended.get("queue")),
            **history,
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

    # -- acknowledgement

    def _acknowledged_claim(self, request: Any, error: BaseException | None = None) -> Claim | None:
        """The message that Celery certainly acknowledges because of this final state, if it is in our database."""
        if not is_acknowledged(self._task_of(request), error):
            return None
        claim = claim_of_task(request)
        return None if claim is None or not self.shares_broker() else claim

    def shares_broker(self) -> bool:
        """Whether the broker is this package's and in the same database. Two addresses of one are both asked, once."""
        if self._shares_broker is None:
            broker = self.app.connection_for_read().transport
            if not isinstance(broker, transport.Transport):
                self._shares_broker = False
            elif time.monotonic() >= self._asks_again:
                try:
                    self._shares_broker = recognizes(self.dsn, libpq_dsn(broker.client))
                except (Error, SchemaError):
                    self._asks_again = time.monotonic() + _ASKS_AGAIN_S
        return bool(self._shares_broker)

    def _is_late(self, request: Any) -> bool:
        """Whether the message is acknowledged after what is stored now."""
        task = self._task_of(request)
        return task is not None and bool(task.acks_late) and not getattr(request, "is_eager", False)

    def _task_of(self, request: Any) -> Any:
        """None without a request, of one that is a placeholder, and of a task that this worker does not know."""
        name = getattr(request, "task", None)
        return self._tasks.get(name) if isinstance(name, str) else None

    def _run_again(self, request: Any, exc: BaseException) -> None:
        """Have the message of a task that ends now run again, although Celery will acknowledge it."""
        claims, claim = self.claims(), claim_of_task(request)
        logger.warning(
            "Could not send what follows task %s (%s): it runs again", request.id, loggable(exc),
            extra={"task_id": request.id},
        )  # fmt: skip
        if claims is None or claim is None or not self.shares_broker():
            raise Reject("what follows the task could not be sent", requeue=AFTER_A_PAUSE) from exc
        claims.requeue_later(claim)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """As Celery's, but with the arguments as a list, as in JSON."""
        prepared = super().prepare_exception(exc, serializer)
        if isinstance(prepared, dict) and isinstance(prepared.get("exc_message"), tuple):
            prepared["exc_message"] = list(prepared["exc_message"])
        return prepared


def _encoded(value: Any) -> bytes | None:
    return None if value is None else bytes(ensure_bytes(value))
