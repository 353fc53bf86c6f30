"""What happens to a chord when its last part has returned."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from celery import states
from celery.canvas import group, maybe_signature
from celery.exceptions import ChordError
from celery.result import ResultSet
from celery.utils import functional
from kombu.utils import json

from celery_postgres.broker.collecting import collected
from celery_postgres.broker.destinations import publish_declaring
from celery_postgres.broker.placing import begin_chord, expect_chord, expect_one_part, size_later
from celery_postgres.broker.transaction import at_once
from celery_postgres.database.chord_store import ChordStore, DueChord
from celery_postgres.errors import is_temporary
from celery_postgres.results.canvas import contexts_of, errbacks_of, last_of, without
from celery_postgres.results.columns import text
from celery_postgres.results.never_ran import Cause, because_of
from celery_postgres.results.recording import RecordingBackend
from celery_postgres.results.serializer import load

logger = logging.getLogger(__name__)


def remember_shape(backend: RecordingBackend, header_result_args: Any) -> None:
    """Save a header that contains groups, and its size. A header that is generated while it is published has no groups
    that could be seen.

    A group at the end of a chain in the header is published later, by a worker, and Celery then reports the size of
    that group as the size of the chord. So the first size recorded wins, and this one is recorded first.
    """
    identity, results = header_result_args[:2]
    if isinstance(results, functional._regen):  # type: ignore[attr-defined]
        return
    header = backend.app.GroupResult(identity, list(results))
    if backend.elsewhere and backend.shares_broker():
        expect_chord(text(identity))
        if _is_one_task(header.results):
            expect_one_part(text(identity))
    if any(isinstance(one, ResultSet) for one in header.results):
        header.save(backend=backend)
        backend.save_shape_elsewhere(header)
        backend.set_chord_size(identity, _size(header))


def _is_one_task(parts: list[Any]) -> bool:
    """Whether a header is one task, which this process publishes. A worker publishes the last task of a chain, which
    has a parent."""
    return len(parts) == 1 and not isinstance(parts[0], ResultSet) and parts[0].parent is None


def set_size(backend: RecordingBackend, chord_id: str, size: int) -> None:
    """Write the number of a chord's parts into the database that counts them, before the last one is published."""
    homes: list[str | None] = begin_chord(chord_id) if backend.elsewhere else [None]
    if homes or not size_later(chord_id, lambda home: _write_size(backend, chord_id, size, [home])):
        # Without homes all parts are chains, and where their last tasks will be counted is not known yet. A row in
        # another database expires.
        _write_size(backend, chord_id, size, homes)


def _write_size(backend: RecordingBackend, chord_id: str, size: int, homes: list[str | None]) -> None:
    """In the databases of these names; in all without any."""
    for sessions in backend.elsewhere.sessions(homes or None):
        backend.persistently(partial(ChordStore(sessions).size, chord_id, size))
    if (not homes or None in homes) and backend.persistently(partial(backend.chord_store.size, chord_id, size)):
        backend.send_body(chord_id)


def _size(result: Any) -> int:
    return sum(map(_size, result.results or ())) if isinstance(result, ResultSet) else 1


def finish(backend: RecordingBackend, chord_id: str) -> None:
    """Send the body of a chord that is due and end the chord, in one transaction.

    Of several processes that try, one does it. Where the broker is in another database the body is published first, so
    a crash between the two may send it twice, under the same task id.
    """
    chord = backend.chord_store.due(chord_id)
    if chord is None:
        return
    callback = maybe_signature(json.loads(chord.body), app=backend.app)
    if not backend.shares_broker():
        with at_once():  # the chord ends now, even if a caller's transaction is rolled back
            _call(backend, chord_id, callback, chord)
        backend.chord_store.end(chord_id)
        return
    with collected() as sent:
        _call(backend, chord_id, callback, chord)

    def declare(queue: str) -> None:
        with backend.app.connection_for_write() as connection:
            connection.default_channel._new_queue(queue)

    publish_declaring(lambda: backend.chord_store.finish(chord_id, sent.messages), declare)


def _call(backend: RecordingBackend, chord_id: str, callback: Any, chord: DueChord) -> None:
    """Call the body with the results of the parts, or fail it with the first part that failed.

    Raises:
        Exception: the database or the broker cannot do it now; the chord stays due.
    """
    try:
        values = _joined(backend, chord_id, chord)
    except ChordError as error:
        _fail(backend, callback, error)
        return
    except Exception as error:
        if is_temporary(error):
            raise
        logger.exception("Cannot join the parts of chord %s", chord_id)
        _fail(backend, callback, ChordError(f"Join error: {error!r}"))
        return
    try:
        callback.delay(values)
    except Exception as error:
        if is_temporary(error):
            raise
        logger.exception("Cannot call the body of chord %s", chord_id)
        _fail(backend, callback, ChordError(f"Callback error: {error!r}"))


def _fail(backend: RecordingBackend, callback: Any, error: ChordError) -> None:
    last = last_of(callback)
    contexts = contexts_of(last)
    part_id = getattr(error, "part_id", None)
    bodies = [maybe_signature(one, app=backend.app) for one in (last.tasks if isinstance(last, group) else [last])]
    names = {str(one.id): str(one.task) for one in map(last_of, bodies) if one.id}
    with because_of(Cause(part_id, names=names) if part_id else None):
        _fail_body(backend, last, contexts, error)
    # Before the chord is deleted: if this process died in between, clients would wait for the body without end.
    backend.flush()


def _fail_body(backend: RecordingBackend, last: Any, contexts: list[Any], error: ChordError) -> None:
    # Celery gives the errbacks of a chord to the chords in its header too. The header's chords fail with them, and call
    # them then.
    outer = [errback for context in contexts if context.chord for errback in _errbacks(backend, context.chord)]
    last.options["link_error"] = without(errbacks_of(last), outer)
    if isinstance(last, group):
        # Celery revokes the tasks of a group as well, and a waiting client may get that instead of the error. Each task
        # calls its own errbacks and those of the group, each once (Celery 5.7).
        for task in last.tasks:
            part = last_of(maybe_signature(task, app=backend.app)).clone()
            own = without(errbacks_of(part), outer)
            part.options["link_error"] = [*own, *without(errbacks_of(last), own)]
            backend.chord_error_from_stack(part, error.__cause__ or error)
        if last.id:
            backend.mark_as_failure(last.id, error.__cause__ or error)
        if (fail_chain := getattr(backend, "_fail_chain", None)) is not None:  # Celery 5.7: what follows the group
            fail_chain(last.options.get("chain"), error.__cause__ or error)
    else:
        backend.chord_error_from_stack(last, error)
    # The body may be a part of another chord, which would wait for it without end.
    for context in contexts:
        if context.chord:
            backend.on_chord_part_return(context, states.FAILURE, error)


def _errbacks(backend: RecordingBackend, body: Any) -> list[Any]:
    return errbacks_of(last_of(maybe_signature(body, app=backend.app)))


def _joined(backend: RecordingBackend, chord_id: str, chord: DueChord) -> list[Any]:
    """The values of the parts, in the shape of the header.

    Raises:
        ChordError: a part has failed.
    """
    values: dict[str, Any] = {}
    for part in chord.parts:
        value = load(part.result, backend.pickle)
        if part.status in backend.EXCEPTION_STATES:
            value = backend.exception_to_python(value)
        if part.status in states.PROPAGATE_STATES:
            raised = ChordError(f"Dependency {part.task_id} raised {value!r}")
            raised.part_id = part.task_id  # type: ignore[attr-defined]  # for the body, which never runs
            raised.__cause__ = value if isinstance(value, BaseException) else None
            raise raised
        values[part.task_id] = value
    shape = backend.restore_group(chord_id) if chord.shaped else None
    return list(values.values()) if shape is None else _shaped(shape, values)


def _shaped(header: ResultSet, values: dict[str, Any]) -> list[Any]:
    results: list[Any] = header.results or []
    return [_shaped(one, values) if isinstance(one, ResultSet) else values.get(one.id) for one in results]
