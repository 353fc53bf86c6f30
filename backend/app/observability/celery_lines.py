"""What Celery, Kombu and other libraries log, without what they quote.

Celery's messages quote return values, exceptions, arguments and whole message bodies, at every level. So a record of a
library shows its template, and of its arguments only these:

- Numbers, exceptions as `faults.brief` shows them, and functions and classes by name. Every other argument becomes `…`.
- Templates that are known here show more: the task's name and id, the name of a queue or a worker.

A template that a new version of a library adds therefore shows too little, and never too much.

The package `celery_postgres` promises that no argument of its log calls quotes a payload, a result or a secret. So its
text arguments and its `extra` are shown, with control characters escaped: names of queues come from outside. Only what
the driver or the server gave as a reason (`errors.Reason`) may quote data: its SQLSTATE and name are shown, and for the
fault of a connection, which has none, our words for it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from celery.app import trace
from celery.exceptions import Retry
from celery.worker.consumer import consumer as _consumer

from app.observability.faults import brief, connection_fault, public_text
from celery_postgres.errors import Reason

consumer: Any = _consumer  # the stubs know nothing of its templates

ELLIPSIS = "…"
PACKAGE = "celery_postgres"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data"}
#: Ids and names, also of tasks that nobody registered; anything else that claims to be one is a text.
_NAME = re.compile(r"[\w.:@/-]{1,200}")


@dataclass(frozen=True, slots=True)
class Line:
    """A record as it may be shown.

    Attributes:
        fields: task_id, task_name, duration_ms, as far as the record says them.
        error: the exception to describe; None for none, although the record may have one.
        extra: what else the record may show.
    """

    message: str
    fields: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=512)
def is_own(logger_name: str) -> bool:
    """Whether the application logs under this name: `app.…`, and what `celery.utils.log.get_task_logger` gave."""
    if logger_name.partition(".")[0] == "app":
        return True
    logger: logging.Logger | None = logging.getLogger(logger_name)
    while logger is not None:
        # celery.redirected is what our own code printed.
        if logger.name in ("celery.task", "celery.redirected"):
            return True
        logger = logger.parent
    return False


def read(record: logging.LogRecord) -> Line:
    """`record` as it may be shown."""
    template = record.msg if isinstance(record.msg, str) else ""
    error = record.exc_info[1] if record.exc_info else None
    if is_own(record.name):
        return Line(_fill(record, _own_argument), error=error, extra=_extra(record))
    known = _KNOWN.get(template.strip())
    if known is not None:
        return known(record)
    if template.startswith(_REVOKED):  # the stamped header that revoked it is part of the template
        return _task_line("Discarding revoked task", 0)(record)
    if record.name.partition(".")[0] == PACKAGE:
        extra = {escaped(name): _package_field(value) for name, value in _extra(record).items()}
        return Line(escaped(_fill(record, _package_argument)), error=error, extra=extra)
    argument = _own_argument if template.strip() in _HARMLESS or record.name in _HARMLESS_LOGGERS else _argument
    return Line(_fill(record, argument), error=error)


def escaped(text: str) -> str:
    """`text` with its control characters and other invisible ones as Python writes them: `\\n`, `\\x1b`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def name_or_none(value: object) -> str | None:
    """`value` if it is made like an id or a name."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


class _Text:
    """A text that fills `%s` and `%r` alike."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _own_argument(value: Any) -> Any:
    return _Text(brief(value)) if isinstance(value, BaseException) else value


def _argument(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, BaseException):
        return _Text(brief(value))
    if callable(value) and hasattr(value, "__qualname__"):
        return _Text(f"{value.__module__}.{value.__qualname__}")
    return _Text(ELLIPSIS)


def _package_argument(value: Any) -> Any:
    if isinstance(value, Reason):
        return _Text(value.condition or connection_fault(value) or ELLIPSIS)
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return _Text(", ".join(str(_package_argument(one)) for one in value))
    return _argument(value)


def _package_field(value: Any) -> Any:
    shown = _package_argument(value)
    return escaped(str(shown)) if isinstance(shown, str | _Text) else shown


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _fill(record: logging.LogRecord, argument: Callable[[Any], Any]) -> str:
    if not isinstance(record.msg, str):
        return str(argument(record.msg))
    if not record.args:
        return record.msg
    try:
        if isinstance(record.args, Mapping):
            return record.msg % {key: argument(value) for key, value in record.args.items()}
        return record.msg % tuple(argument(value) for value in record.args)
    except (TypeError, ValueError, KeyError):
        return record.msg


def _task(name: object, task_id: object) -> tuple[str, dict[str, Any]]:
    known = {"task_name": name_or_none(name), "task_id": name_or_none(task_id)}
    return f"{known['task_name'] or ELLIPSIS}[{known['task_id'] or ELLIPSIS}]", {k: v for k, v in known.items() if v}


def _trace_line(record: logging.LogRecord) -> Line:
    """One of celery.app.trace, or "received": the one argument is a mapping, with payload and result in it."""
    data: Mapping[str, Any] = record.args if isinstance(record.args, Mapping) else {}
    task, fields = _task(data.get("name"), data.get("id"))
    # It is logged while the exception is handled; the one in the record is what of it could be pickled.
    error = sys.exc_info()[1] or (record.exc_info[1] if record.exc_info else None)
    template = record.msg
    if template == trace.LOG_RECEIVED:
        return Line(f"Task {task} received", fields)
    if template == trace.LOG_SUCCESS:
        runtime = data.get("runtime")
        if not isinstance(runtime, int | float):
            return Line(f"Task {task} succeeded", fields)
        return Line(f"Task {task} succeeded in {runtime:.3f}s", fields | {"duration_ms": round(runtime * 1000, 1)})
    if template == trace.LOG_RETRY:
        # The Retry knows what was the matter, and when it will be tried again.
        cause = error.exc if isinstance(error, Retry) and isinstance(error.exc, BaseException) else None
        return Line(f"Task {task} " + ((isinstance(error, Retry) and public_text(error)) or "retry"), fields, cause)
    if template == trace.LOG_REJECTED.strip():
        return Line(f"Task {task} rejected", fields, error)
    description = data.get("description")
    description = description if description in _DESCRIPTIONS else ELLIPSIS
    if template == trace.LOG_IGNORED or template == trace.LOG_IGNORED.strip():
        return Line(f"Task {task} {description}", fields)
    return Line(f"Task {task} {description}" + (f": {brief(error)}" if error else ""), fields, error)


def _unknown_task(record: logging.LogRecord) -> Line:
    error, _, headers, *_ = record.args if isinstance(record.args, tuple) else (None, None, None)
    named = error.args[0] if isinstance(error, KeyError) and error.args else None
    task, fields = _task(named, headers.get("id") if isinstance(headers, Mapping) else None)
    return Line(f"Received unregistered task {task}: discarded; is the module that defines it loaded?", fields)


def _discarded(what: str) -> Callable[[logging.LogRecord], Line]:
    def line(record: logging.LogRecord) -> Line:
        error = record.exc_info[1] if record.exc_info else None
        return Line(what + (f": {brief(error)}" if error else ""), error=error)

    return line


def _task_line(text: str, first: int, limit: bool = False) -> Callable[[logging.LogRecord], Line]:
    """A line whose arguments `first` and `first + 1` are the task's name and id."""

    def line(record: logging.LogRecord) -> Line:
        arguments = record.args if isinstance(record.args, tuple) else ()
        name, task_id = [*arguments[first : first + 2], None, None][:2]
        task, fields = _task(name, task_id)
        seconds = f" ({arguments[0]:g} s)" if limit and isinstance(arguments[0], int | float) else ""
        return Line(f"{text}{seconds}: {task}", fields)

    return line


#: What celery.app.trace says of a task; constants there.
_DESCRIPTIONS = frozenset(
    {
        policy.description
        for policy in (
            trace.log_policy_reject,
            trace.log_policy_ignore,
            trace.log_policy_internal,
            trace.log_policy_expected,
            trace.log_policy_unexpected,
        )
    }
    | {"Task already completed successfully."}
)
_REVOKED = "Discarding revoked task: %s[%s]"
_KNOWN: dict[str, Callable[[logging.LogRecord], Line]] = {
    trace.LOG_RECEIVED.strip(): _trace_line,
    trace.LOG_SUCCESS.strip(): _trace_line,
    trace.LOG_FAILURE.strip(): _trace_line,
    trace.LOG_INTERNAL_ERROR.strip(): _trace_line,
    trace.LOG_IGNORED.strip(): _trace_line,
    trace.LOG_REJECTED.strip(): _trace_line,
    trace.LOG_RETRY.strip(): _trace_line,
    consumer.UNKNOWN_TASK_ERROR.strip(): _unknown_task,
    consumer.UNKNOWN_FORMAT.strip(): _discarded("Received a message that is no task: discarded"),
    consumer.INVALID_TASK_ERROR.strip(): _discarded("Received an invalid task message: discarded"),
    consumer.MESSAGE_DECODE_ERROR.strip(): _discarded("Received a message that cannot be decoded: discarded"),
    "Task accepted: %s[%s] pid:%r": _task_line("Task accepted", 0),
    "Soft time limit (%ss) exceeded for %s[%s]": _task_line("Soft time limit exceeded", 1, limit=True),
    "Hard time limit (%ss) exceeded for %s[%s]": _task_line("Hard time limit exceeded", 1, limit=True),
}
#: Templates whose arguments are names of workers, queues, tasks and processes, or addresses that Celery masks.
_HARMLESS = frozenset(
    {
        "%s ready.",
        "Connected to %s",
        "pidbox: Connected to %s.",
        "Started consuming from %s",
        "Canceling queue %s",
        "Process %r pid:%r exited with %r",
        "Terminating %s (%s)",
        "Tasks flagged as revoked: %s",
        "New rate limit for tasks of type %s: %s.",
        "Rate limits disabled for tasks of type %s",
        "New time limits for tasks of type %s: soft=%s hard=%s",
        "sync with %s",
        "missed heartbeat from %s",
        "%s joined the party",
        "%s left",
        consumer.CONNECTION_ERROR.strip(),
    }
)
#: Loggers that only know of Celery's own parts.
_HARMLESS_LOGGERS = frozenset({"celery.bootsteps"})
