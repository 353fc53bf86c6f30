"""Chords: what happens when the last part has returned."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import psycopg2
from celery import canvas, states
from celery.app.task import Context
from celery.canvas import _chain, group, maybe_signature
from celery.exceptions import ChordError
from celery.result import ResultSet
from celery.utils import functional
from celery.utils.functional import maybe_list
from kombu.exceptions import OperationalError
from kombu.utils import json

from celery_postgres.broker.bulk import Collected, collected
from celery_postgres.broker.transaction import at_once
from celery_postgres.database.envelope import columns
from celery_postgres.errors import SchemaError, is_lasting
from celery_postgres.results.serializer import load

if TYPE_CHECKING:
    from celery_postgres.results.backend import DatabaseBackend

logger = logging.getLogger(__name__)

_chord: Any = canvas._chord  # type: ignore[attr-defined]


def remember_shape(backend: DatabaseBackend, header_result_args: Any) -> None:
    """Save a header that has groups in it, and its size. One that is made while it is published has none that could be
    seen.

    A group at the end of a chain in the header is published by a worker, later, and Celery says then that the chord has
    the size of that group. So the first that is said counts, and this is before all others.
    """
    identity, results = header_result_args[:2]
    if isinstance(results, functional._regen):  # type: ignore[attr-defined]
        return
    header = backend.app.GroupResult(identity, list(results))
    if any(isinstance(one, ResultSet) for one in header.results):
        header.save(backend=backend)
        backend.set_chord_size(identity, _leaves(header))


def _leaves(result: Any) -> int:
    return sum(map(_leaves, result.results or ())) if isinstance(result, ResultSet) else 1


def finish(backend: DatabaseBackend, chord: str) -> None:
    """Send the body of a chord that is due, and end the chord, in one transaction.

    Any number may try: one does it. Where the broker is in another database, the body is published first, so a crash
    just between may send it twice, under the same task id.
    """
    rows = backend._read("chord_parts", chord=chord)
    if not rows:
        return
    callback = maybe_signature(json.loads(rows[0][0]), app=backend.app)
    if not backend._shares_broker():
        with at_once():  # the chord ends now, whatever becomes of a caller's transaction
            _apply(backend, chord, callback, rows)
        backend.sessions.run("end_chord", chord=chord)
        return
    with collected() as sent:
        _apply(backend, chord, callback, rows)
    _finish(backend, chord, sent)


def _finish(backend: DatabaseBackend, chord: str, sent: Collected) -> None:
    messages = [message for _, message in sent.messages]
    queues = [queue for queue, _ in sent.messages]
    if queues:
        with backend.app.connection_for_write() as connection:
            channel = connection.default_channel
            for queue in dict.fromkeys(queues):
                if not channel._has_queue(queue):
                    channel._new_queue(queue)
    backend.sessions.run(
        "finish_chord",
        chord=chord,
        queues=queues,
        **columns(messages),
    )


def _apply(backend: DatabaseBackend, chord: str, callback: Any, rows: list[Any]) -> None:
    """Call the body with what the parts returned, or fail it with the first that failed.

    Raises:
        what a database raises that cannot do it now: the chord stays due.
    """
    try:
        values = _joined(backend, chord, rows)
    except ChordError as error:
        _fail(backend, callback, error)
        return
    except Exception as error:
        if _passes(error):
            raise
        logger.exception("the parts of chord %s cannot be joined", chord)
        _fail(backend, callback, ChordError(f"Join error: {error!r}"))
        return
    try:
        callback.delay(values)
    except Exception as error:
        if _passes(error):
            raise
        logger.exception("the body of chord %s cannot be called", chord)
        _fail(backend, callback, ChordError(f"Callback error: {error!r}"))


def _passes(error: Exception) -> bool:
    """Whether it is the database, or whatever broker there is, that cannot do it now."""
    return isinstance(error, psycopg2.Error | SchemaError | OperationalError) and not is_lasting(error)


def _fail(backend: DatabaseBackend, callback: Any, error: ChordError) -> None:
    last = last_of(callback)
    contexts = contexts_of(last)
    # Celery gives the errbacks of a chord to the chords in its header too. It fails with them, and calls them then.
    outer = [errback for context in contexts if context.chord for errback in _errbacks(backend, context.chord)]
    last.options["link_error"] = _without(_linked(last), outer)
    if isinstance(last, group):
        # Celery revokes the tasks of a group as well, and whoever waits may get that instead of the error. Each task
        # calls its own errbacks and those of the group, each once (Celery 5.7).
        for task in last.tasks:
            part = last_of(maybe_signature(task, app=backend.app)).clone()
            own = _without(_linked(part), outer)
            part.options["link_error"] = [*own, *_without(_linked(last), own)]
            backend.chord_error_from_stack(part, error.__cause__ or error)
        if last.id:
            backend.mark_as_failure(last.id, error.__cause__ or error)
        if (fail_chain := getattr(backend, "_fail_chain", None)) is not None:  # Celery 5.7: what follows the group
            fail_chain(last.options.get("chain"), error.__cause__ or error)
    else:
        backend.chord_error_from_stack(last, error)
    # The body may be a part of another chord, which would wait for it for ever.
    for context in contexts:
        if context.chord:
            backend.on_chord_part_return(context, states.FAILURE, error)
    # Before the chord is gone: whoever waits for its body would else wait for ever, if we died in between.
    backend._flush()


def _errbacks(backend: DatabaseBackend, body: Any) -> list[Any]:
    return _linked(last_of(maybe_signature(body, app=backend.app)))


def _linked(signature: Any) -> list[Any]:
    return list(maybe_list(signature.options.get("link_error")) or [])


def _without(errbacks: list[Any], others: list[Any]) -> list[Any]:
    return [one for one in errbacks if one not in others]


def is_compound(signature: Any) -> bool:
    """Whether it is a chain or a chord."""
    return isinstance(signature, (_chain, _chord))


def last_of(signature: Any) -> Any:
    """The task, or the group, whose result is that of a chain or a chord; with the errbacks of what it is in."""
    while is_compound(signature):
        inner = signature.tasks[-1] if isinstance(signature, _chain) else signature.body
        last: Any = maybe_signature(inner, app=signature.app)
        last = last.clone()
        last.options["link_error"] = [*_linked(last), *_without(_linked(signature), _linked(last))]
        signature = last
    return signature


def contexts_of(signature: Any) -> list[Any]:
    """What stands for the request of each task in `last_of`, which will never be sent."""
    tasks = signature.tasks if isinstance(signature, group) else [signature]
    options = [last_of(maybe_signature(task, app=signature.app)).options for task in tasks]
    return [
        Context({**one, "id": one["task_id"], "group": one.get("group_id")}) for one in options if one.get("task_id")
    ]


def _joined(backend: DatabaseBackend, chord: str, rows: list[Any]) -> list[Any]:
    values: dict[str, Any] = {}
    for _, task_id, status, result in rows:
        value = load(result, backend.pickle)
        if status in backend.EXCEPTION_STATES:
            value = backend.exception_to_python(value)
        if status in states.PROPAGATE_STATES:
            raised = ChordError(f"Dependency {task_id} raised {value!r}")
            raised.__cause__ = value if isinstance(value, BaseException) else None
            raise raised
        values[task_id] = value
    shape = backend.restore_group(chord)
    return list(values.values()) if shape is None else _shaped(shape, values)


def _shaped(group: ResultSet, values: dict[str, Any]) -> list[Any]:
    parts: list[Any] = group.results or []
    return [_shaped(one, values) if isinstance(one, ResultSet) else values.get(one.id) for one in parts]
