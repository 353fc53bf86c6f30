"""The result backend for addresses like `db+postgresql://…`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from celery import states
from celery.result import AsyncResult, GroupResult, ResultSet, result_from_tuple

from celery_postgres.database import driver
from celery_postgres.database.result_store import Outcome, ResultStore, SavedGroup
from celery_postgres.database.store import InTurn
from celery_postgres.errors import is_temporary, loggable
from celery_postgres.results import chords
from celery_postgres.results.columns import text, utc
from celery_postgres.results.group_members import Members, parents_read_once, reading_once, unknown_parents
from celery_postgres.results.listener import listener
from celery_postgres.results.maintenance import Maintenance
from celery_postgres.results.recording import RecordingBackend
from celery_postgres.results.serializer import dump_group, load, load_group
from celery_postgres.results.waiting import ended
from celery_postgres.results.waiting_state import WaitingState

logger = logging.getLogger(__name__)


class DatabaseBackend(RecordingBackend):
    """Celery's results in PostgreSQL, in the tables of Celery's stock database backend.

    A write is one statement on a connection that stays open; in pools that run tasks in the worker's own process, the
    writes of a few milliseconds are one commit. If a task is acknowledged late and this package's broker is in the same
    database, the transaction that stores the final state also deletes the message. Waiting clients are notified. Chords
    are counted as their parts return.

    Values are stored as the stock backend stores them, and read without executing anything: see `results.serializer`.
    """

    supports_native_join = True
    #: Celery 5.7 warns of `result_failure_expires` without it.
    supports_failure_expires = True
    #: How long `cleanup` works at most; the next one goes on.
    CLEANUP_S = 300.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.maintenance = Maintenance(self)
        self._waiting_state = WaitingState(self.options.waiting_state, self.shares_broker)

    # -- chords

    def apply_chord(self, header_result_args: Any, body: Any, **_: Any) -> None:
        """Called before the header is published. One that contains groups has to be remembered, as the body gets the
        values in its shape; and one that is a single task, whose queue decides where it is counted."""
        chords.remember_shape(self, header_result_args)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Called before the last part is published."""
        chords.set_size(self, text(group_id), chord_size)

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        self.chord_store.enlarge(text(chord_id))

    def send_body(self, chord_id: str) -> None:
        """In the writer's thread. Whatever goes wrong, maintenance finds the chord again later."""
        try:
            chords.finish(self, chord_id)
        except Exception as error:
            if is_temporary(error):
                logger.warning("Could not send the body of a chord (%s); a worker tries again", loggable(error))
                return
            logger.exception("Could not send the body of chord %s; a worker tries again", chord_id)

    # -- reading

    @property
    def _reading(self) -> ResultStore:
        """Used by one thread at a time: a thousand threads that wait for results, each of which has a backend of its
        own, need one connection."""
        return ResultStore(InTurn(self.sessions))

    @property
    def _all_reading(self) -> list[ResultStore]:
        return [self._reading, *(ResultStore(InTurn(sessions)) for sessions in self.elsewhere.sessions())]

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        self.flush()
        outcome = self._waiting_state.read(self._reading, text(task_id))
        for sessions in self.elsewhere.sessions():
            if outcome is not None and outcome.final:
                break
            outcome = self._waiting_state.read(ResultStore(InTurn(sessions)), text(task_id)) or outcome
        if outcome is None:
            return {"task_id": task_id, "status": states.PENDING, "result": None, "traceback": None, "date_done": None}
        return self._meta(outcome)

    def _meta(self, outcome: Outcome) -> dict[str, Any]:
        """A task's outcome as Celery describes it.

        Raises:
            celery.exceptions.SecurityError: the row asks for more than to be read.
        """
        meta: dict[str, Any] = self.meta_from_decoded(
            {
                "task_id": outcome.task_id,
                "status": outcome.status,
                "result": load(outcome.result, self.pickle),
                "traceback": outcome.traceback,
                "date_done": outcome.date_done if outcome.final else None,
                "children": load(outcome.children, self.pickle),
                "name": outcome.name,
                "args": None if outcome.args is None else self.decode(outcome.args),
                "kwargs": None if outcome.kwargs is None else self.decode(outcome.kwargs),
                "worker": outcome.worker,
                "retries": outcome.retries,
                "queue": outcome.queue,
            }
        )
        return meta

    def task_result_exists(self, task_id: str) -> bool:
        """`AsyncResult.exists()` of Celery 5.7: whether a state is stored, which a task that only waits has not."""

        def exists() -> bool:
            self.flush()
            return any(store.exists(text(task_id)) for store in self._all_reading)

        retried = getattr(self, "_ensure_retryable", None)  # Celery 5.7's, as for every other read
        return exists() if retried is None else bool(retried(exists))

    def _forget(self, task_id: str) -> None:
        self.flush()
        for store in self._all_reading:
            store.forget(text(task_id))

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
        **_: Any,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, meta) of tasks as they end; with `max_iterations` only of those that have ended already."""
        for meta in self._ended(list(task_ids), timeout, on_message, on_interval, wait=not max_iterations):
            yield meta["task_id"], meta

    # -- waiting

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:
        """Do nothing: a result is watched only while a client waits. Callbacks of `then()` run when it is read."""
        return result

    def add_pending_results(self, results: Any, weak: bool = False) -> Any:
        return results

    def remove_pending_result(self, result: Any) -> Any:
        return result

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        callback: Any = None,
        propagate: bool = True,
        **_: Any,
    ) -> Any:
        """The task's value. `on_interval` raises the error of a parent, and comes first: the error that broke a chord
        is more informative than the ChordError of its body."""
        self._ensure_not_eager()
        for meta in self._ended([text(result.id)], timeout, on_message, on_interval):
            result._maybe_set_cache(meta)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """The meta of a task, when it has ended."""
        self._ensure_not_eager()
        (meta,) = self._ended([text(task_id)], timeout, None, on_interval)
        return meta

    def read_parents(self, result: Any) -> bool:
        """Read the outcomes of all tasks before a result in one statement. Returns whether that was possible."""
        unknown = unknown_parents(result)
        try:
            known = {one.task_id: one for one in self._final([text(one.id) for one in unknown])} if unknown else {}
        except driver.LOST_CONNECTION:  # Celery reads them, with its own retries
            return False
        for one in unknown:
            if one.id in known:
                one._maybe_set_cache(self._meta(known[one.id]))
        return True

    def iter_native(
        self,
        result: ResultSet,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        **_: Any,
    ) -> Iterator[tuple[str, Any]]:
        """(id, meta) of the set's tasks as they end. Of a group in the set: its id and results, when all of its tasks
        have ended, because Celery gets each of them without a timeout."""
        self._ensure_not_eager()
        members = Members(result.results)
        yield from members.ended()
        for meta in self._ended(list(members.tasks), timeout, on_message, on_interval):
            members.add(meta)
            yield from members.ended()

    def _ended(
        self,
        task_ids: list[str],
        timeout: float | None,
        on_message: Any,
        on_interval: Any,
        wait: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """The meta of each task, as soon as it has ended; see `waiting.ended`."""
        watched = self.elsewhere.watchers(listener(self.sessions, self.listening))
        outcomes = ended(self._final, watched, task_ids, timeout, on_interval, wait=wait)
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                meta = self._meta(outcome)
                if on_message:
                    on_message(meta)
                yield meta

    def _final(self, task_ids: list[str]) -> list[Outcome]:
        """The outcomes of those tasks that have ended."""
        self.flush()
        found = self._reading.results(task_ids)
        if self.elsewhere:
            found = self.elsewhere.complete(found, task_ids, lambda one, ids: ResultStore(InTurn(one)).results(ids))
        return [outcome for outcome in found if outcome.final]

    # -- groups

    def _save_group(self, group_id: str, result: GroupResult) -> GroupResult:
        self._reading.save_group(self._saved(group_id, result))
        return result

    def _saved(self, group_id: str | None, result: GroupResult) -> SavedGroup:
        return SavedGroup(text(group_id), dump_group(result, self.pickle), utc(self.app.now()))

    def save_shape_elsewhere(self, header: GroupResult) -> None:
        """Save the shape of a chord's header in the other databases: one of them may count the chord."""
        for sessions in self.elsewhere.sessions():
            ResultStore(sessions).save_group(self._saved(header.id, header))

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        group = self._reading.group(text(group_id))
        if group is None:
            return None
        result = result_from_tuple(load_group(group.result, self.pickle), self.app)
        return {"taskset_id": group.group_id, "result": result, "date_done": group.date_done}

    def _delete_group(self, group_id: str) -> None:
        self._reading.delete_group(text(group_id))

    # -- maintenance

    def maintain(self) -> float:
        return self.maintenance.run()

    def cleanup(self) -> None:
        """Delete what has expired, in batches; concurrent runs share the work."""
        self.maintenance.clean(self.CLEANUP_S)


ResultSet.join = reading_once(ResultSet.join, DatabaseBackend)  # type: ignore[method-assign]
_result: Any = AsyncResult
_result._maybe_reraise_parent_error = parents_read_once(_result._maybe_reraise_parent_error, DatabaseBackend)
