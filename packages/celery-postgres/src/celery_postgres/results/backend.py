"""The result backend: what Celery looks at. `db+postgresql://…`"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import time
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg2
from celery import states
from celery.exceptions import TimeoutError as NotInTime
from celery.result import GroupResult, ResultSet, result_from_tuple

from celery_postgres.database.address import database_of
from celery_postgres.database.backoff import uniform
from celery_postgres.database.session import Row
from celery_postgres.errors import SchemaError, UnstorableResultError, loggable
from celery_postgres.results import chords
from celery_postgres.results.batch_writer import new_writer
from celery_postgres.results.group_members import Members, looks_once, unknown_parents
from celery_postgres.results.handover import handover
from celery_postgres.results.listener import listener
from celery_postgres.results.recording import LONGEST_ID, StoringBackend
from celery_postgres.results.result_store import text, utc
from celery_postgres.results.serializer import dump_group, load, load_group

logger = logging.getLogger(__name__)

_BATCH = 1000


class DatabaseBackend(StoringBackend):
    """Celery's results in PostgreSQL, in stock's own tables.

    Results are written in one statement each, on a connection that is kept; in pools that run tasks in the worker's own
    process, those of a few milliseconds go out together. Where a task is acknowledged late and the broker is this
    package's, in the same database, its message is deleted in the transaction that stores its final state. Who waits
    is notified. Chords are counted as their parts return.

    Values are stored as stock stores them, and read without executing anything: see `results.serializer`.
    """

    supports_native_join = True
    #: Seconds that `cleanup` works at most; what is left goes the next time.
    CLEANUP_S = 300.0
    #: A chord whose body was not sent for so long is sent by whoever finds it.
    OVERDUE_S = 5.0
    CHORES_S = 15.0
    CLEANUP_EVERY_S = 3600.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._next_cleanup = time.monotonic() + self.CLEANUP_EVERY_S * uniform(0, 1)

    # -- chords

    def apply_chord(self, header_result_args: Any, body: Any, **_: Any) -> None:
        """Called before the header is published. Only a header with groups in it has to be remembered: what the body
        gets has its shape."""
        chords.remember_shape(self, header_result_args)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Called before the last part is published."""
        chord = text(group_id)
        ((_, due),) = self._persistently(lambda: self.sessions.run("size_chord", chord=chord, size=chord_size))
        if due:
            self._send_body(chord)

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        self.sessions.run("enlarge_chord", chord=text(chord_id))

    # -- reading

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        self._flush()
        rows = self._read("result", task_id=text(task_id))
        if not rows:
            return {"task_id": task_id, "status": states.PENDING, "result": None, "traceback": None, "date_done": None}
        return self._meta(rows[0])

    def _read(self, name: str, **parameters: Any) -> list[Row]:
        """One at a time: a thousand threads that wait for results, each of which has a backend of its own, are one
        connection."""
        sessions = self.sessions
        with sessions.taking_turns:
            return sessions.run(name, **parameters)

    def _meta(self, row: Row) -> dict[str, Any]:
        """What Celery knows of a task.

        Raises:
            celery.exceptions.SecurityError: its row asks for more than to be read.
        """
        task_id, status, result, date_done, traceback, children, name, args, kwargs, worker, retries, queue_name = row
        meta: dict[str, Any] = self.meta_from_decoded(
            {
                "task_id": task_id,
                "status": status,
                "result": load(result, self.pickle),
                "traceback": traceback,
                "date_done": date_done if status in self.READY_STATES else None,
                "children": None if children is None else json.loads(bytes(children)),
                "name": name,
                "args": None if args is None else self.decode(bytes(args)),
                "kwargs": None if kwargs is None else self.decode(bytes(kwargs)),
                "worker": worker,
                "retries": retries,
                "queue": queue_name,
            }
        )
        return meta

    def _forget(self, task_id: str) -> None:
        self._flush()
        self._read("forget_result", task_id=text(task_id))

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
        """(id, meta) of tasks as they end; with `max_iterations` only of those that have ended."""
        for meta in self._ended(list(task_ids), timeout, on_message, on_interval, wait=not max_iterations):
            yield meta["task_id"], meta

    # -- waiting

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:
        """Nothing is noted until somebody waits; callbacks of `then()` run when the result is read."""
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
        """The task's value. `on_interval` raises the error of a parent, and comes first: what broke a chord says more
        than the ChordError of its body."""
        self._ensure_not_eager()
        for meta in self._ended([result.id], timeout, on_message, on_interval):
            result._maybe_set_cache(meta)
            self._look_at_parents(result)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any]:
        """What is known of a task that has ended."""
        self._ensure_not_eager()
        (meta,) = self._ended([task_id], timeout, None, on_interval)
        return meta

    def _look_at_parents(self, result: Any) -> None:
        """In one statement, where Celery takes one for each part of a chord."""
        unknown = unknown_parents(result)
        if len(unknown) > 1:
            with contextlib.suppress(psycopg2.OperationalError, psycopg2.InterfaceError):  # then Celery will see to it
                known = {row[0]: row for row in self._ready_rows([one.id for one in unknown])}
                for one in unknown:
                    if one.id in known:
                        one._maybe_set_cache(self._meta(known[one.id]))

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
        """(id, meta) of the set's tasks as they end; for a group in it, its id and results when all of it has ended:
        Celery gets each of them without a limit."""
        self._ensure_not_eager()
        members = Members(result.results)
        yield from members.ended()
        for meta in self._ended(list(members.tasks), timeout, on_message, on_interval):
            members.learn(meta)
            yield from members.ended()

    def _ended(
        self,
        task_ids: list[str],
        timeout: float | None,
        on_message: Any,
        on_interval: Any,
        wait: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """What is known of tasks, each as soon as it has ended.

        Parameters:
            timeout: in seconds; with 0 or less they are looked at once.
            on_interval: called after each task and each second.

        Raises:
            celery.exceptions.TimeoutError: not all of them have ended in time.
            UnstorableResultError: an id is longer than any that is stored.
        """
        if any(len(task_id) > LONGEST_ID for task_id in task_ids):
            raise UnstorableResultError(f"there is no result of a task whose id has more than {LONGEST_ID} characters")
        deadline = None if timeout is None else time.monotonic() + timeout
        self._flush()
        left = dict.fromkeys(task_ids)
        try:
            rows = self._ready_rows(list(left))
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            if not wait:
                raise
            rows = []  # the server restarts: the listener asks as soon as it is back
        came: queue.SimpleQueue[Row] = queue.SimpleQueue()
        for row in rows:
            del left[row[0]]
            came.put(row)
        sink = came.put
        here = listener(self.sessions)
        watched = list(left) if wait and (timeout is None or timeout > 0) else []
        if watched:
            here.watch(watched, sink)
        try:
            while left or not came.empty():
                if not wait and came.empty():
                    return
                pause = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
                try:
                    row = came.get(timeout=max(pause, 0.0))
                except queue.Empty:
                    if on_interval:
                        on_interval()
                    if deadline is not None and time.monotonic() >= deadline:
                        raise NotInTime("The operation timed out.") from None
                    continue
                left.pop(row[0], None)
                meta = self._meta(row)
                if on_message:
                    on_message(meta)
                yield meta
                if on_interval:
                    on_interval()
        finally:
            if left and watched:
                here.unwatch(list(left), sink)

    def _ready_rows(self, task_ids: list[str]) -> list[Row]:
        return [row for row in self._read("results", task_ids=task_ids) if row[1] in self.READY_STATES]

    # -- groups

    def _save_group(self, group_id: str, result: GroupResult) -> GroupResult:
        self._read(
            "save_group", group_id=text(group_id), result=dump_group(result, self.pickle), date_done=utc(self.app.now())
        )
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        rows = self._read("restore_group", group_id=text(group_id))
        if not rows:
            return None
        ((taskset_id, result, date_done),) = rows
        group = result_from_tuple(load_group(result, self.pickle), self.app)
        return {"taskset_id": taskset_id, "result": group, "date_done": date_done}

    def _delete_group(self, group_id: str) -> None:
        self._read("delete_group", group_id=text(group_id))

    # -- upkeep

    def _send_body(self, chord: str) -> None:
        """In the writer's thread: whatever goes wrong, a later sweep finds the chord again."""
        try:
            chords.finish(self, chord)
        except (psycopg2.Error, SchemaError) as error:
            logger.warning("the body of a chord was not sent (%s); it will be tried again", loggable(error))
        except Exception:
            logger.exception("the body of chord %s was not sent; it will be tried again", chord)

    def begin_chores(self) -> None:
        """In a worker, also if it never stores a result. By its writer; with the broker elsewhere there is none, but
        a thread for these alone."""
        if self._writer(self._attendant()) is None:
            key = "chores", *database_of(self.dsn)
            new_writer(key, self.sessions, self._settled, self._send_body, self._do_chores)
        here = handover()
        if here is not None:
            here.serve(database_of(self.dsn), self._kept)

    def _do_chores(self) -> float:
        for (chord,) in self.sessions.run("overdue_chords", seconds=self.OVERDUE_S):
            self._send_body(chord)
        if self.expires and time.monotonic() >= self._next_cleanup:
            self._next_cleanup = time.monotonic() + self.CLEANUP_EVERY_S * uniform(0.8, 1.2)
            # The writer must not keep results waiting: a moment at a time.
            if not self._clean(seconds=0.5):
                self._next_cleanup = time.monotonic() + self.CHORES_S
        return self.CHORES_S * uniform(0.8, 1.2)

    # -- expiry

    def cleanup(self) -> None:
        """Delete what is older than `result_expires`, in batches; two that run at once share the work."""
        if self.expires:
            self._clean(self.CLEANUP_S)

    def _clean(self, seconds: float) -> bool:
        """Whether nothing is left to do."""
        until = time.monotonic() + seconds
        older = self.expires.total_seconds()
        self.sessions.run("drop_old_waiters", seconds=older)
        for name in ("drop_old_results", "drop_old_groups", "drop_old_chords"):
            while self.sessions.run(name, seconds=older, most=_BATCH)[0][0] == _BATCH:
                if time.monotonic() > until:
                    return False
        return True


ResultSet.join = looks_once(ResultSet.join, DatabaseBackend)  # type: ignore[method-assign]
