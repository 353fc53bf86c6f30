"""What a prefork worker's processes tell each other, packed and unpacked in less time; the messages stay Celery's.

Celery parses the body of a task in the main process, to check it, and hands it to the child as text, which parses it
again: a twelfth of the child's time for a task. The arguments are in the request as well, so the parsed body takes less
room than the text. And billiard makes two objects and copies a table of reducers for each of the two reports of a
child, which are numbers and a text: another twelfth. Unnecessary once Celery and billiard do the same.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from celery import signals
from kombu.serialization import registry  # type: ignore[attr-defined, unused-ignore]

_LENGTH = struct.Struct(">i")
#: What both processes read as the same Python values, by Kombu's decoder, but for values with tags: a program may have
#: registered a type whose values are loaded from elsewhere, when the task begins.
_PARSED = "application/json"
_TAGS = "__type__", b"__type__"
_KOMBUS = "kombu.utils.json"


def install() -> None:
    """Patch the pool's children, if the pool is loaded. Calling it again changes nothing."""
    loaded: Any = sys.modules.get("celery.concurrency.asynpool")
    if loaded is not None and not hasattr(loaded.Worker.on_loop_start, "celery_postgres"):
        from billiard.pool import ACK, READY  # loaded already

        loaded.Worker.on_loop_start = _reporting(loaded.Worker.on_loop_start, ACK, READY)


# -- in the main process


def with_parsed_body(task: Any, job: Any) -> Any:
    """A task for a child with its body parsed, if its request has that, and nothing follows the task.

    Args:
        task: what the pool writes: TASK, and the job, its part, the tracer, its arguments and no keyword arguments.
        job: the pool's, of this task.
    """
    kind, (number, part, tracer, arguments, named) = task
    if getattr(tracer, "__module__", None) != "celery.app.trace" or len(arguments) != 6 or arguments[4] != _PARSED:
        return task
    if _TAGS[type(arguments[3]) is bytes] in arguments[3] or registry._decoders[_PARSED].__module__ != _KOMBUS:
        return task
    payload = _unchanged_payload(getattr(getattr(job, "_callback", None), "__self__", None))
    # The values of what follows are in the text alone, and need not be of types that can be pickled.
    if type(payload) is not list or len(payload) != 3 or type(payload[2]) is not dict or any(payload[2].values()):
        return task
    return kind, (number, part, tracer, (*arguments[:3], payload, None, None), named)


def _unchanged_payload(request: Any) -> Any:
    """The parsed body; None if a program's own code may have changed it, of which the text knows nothing."""
    celerys = sys.modules["celery.worker.request"].Request
    if type(request).__base__ is not celerys or signals.task_received.receivers:
        return None
    return request._payload


# -- in a child


def _reporting(original: Any, ack: Any, ready: Any) -> Any:
    @wraps(original)
    def on_loop_start(self: Any, *arguments: Any, **options: Any) -> Any:
        started = original(self, *arguments, **options)
        self.outq.put = _put(self.outq, self.outq.put, ack, ready)
        return started

    on_loop_start.celery_postgres = True  # type: ignore[attr-defined]
    return on_loop_start


def _put(queue: Any, original: Callable[[Any], None], ack: Any, ready: Any) -> Callable[[Any], None]:
    """`put` of the queue of a child's reports, the first thing that it looks up when its loop begins."""
    descriptor = queue._writer.fileno()

    def put(report: Any) -> None:
        kind, details = report
        if kind == ack or (kind == ready and _is_plain(details[2])):
            packed = pickle.dumps(report)
            if len(packed) + _LENGTH.size <= select.PIPE_BUF:  # which is written completely
                os.write(descriptor, _LENGTH.pack(len(packed)) + packed)
                return
        original(report)

    return put


def _is_plain(result: Any) -> bool:
    """Whether this is the end of a task that has succeeded: no error, the text of its result, and its seconds."""
    succeeded, value = result
    return succeeded is True and type(value) is tuple and tuple(map(type, value)) == (int, str, float)
