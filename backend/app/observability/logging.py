"""The worker's log: one handler, one JSON object a line, over the standard library.

Fields, flat, always in this order: timestamp (RFC 3339, UTC, milliseconds), level, logger, message, service,
task_id, task_name, queue, retries, tenant_id, correlation_id, duration_ms, error.type, error.message,
error.stack_trace, then the `extra` of the application's and the package's records. A field without a value is left
out, so that `exists(tenant_id)` means what it says.

What a line shows of an exception is `faults`' to say, and of Celery's messages `celery_lines`'. Of `extra` only
plain values are shown; names like password or token are masked, and passwords in URLs are cut out everywhere.
A line is one write of at most 4,096 bytes, which a pipe takes whole: the lines of a pool's processes never mix.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any

from billiard.util import get_logger as get_pool_logger
from celery import Celery, signals
from celery.apps import worker as celery_worker_program
from celery.exceptions import CeleryWarning

from app.core.settings import get_settings
from app.observability import celery_lines, faults, log_context, redaction

#: PIPE_BUF on Linux.
LONGEST_LINE = 4096
#: Warnings whose text is a library's own; others, such as pydantic's, quote the value that they warn about.
PLAIN_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, CeleryWarning)

_logger = logging.getLogger(__name__)


def install(app: Celery) -> None:
    """Make Celery's programs of this process log as above, and prevent Celery from configuring logging. Safe to call
    again.
    """
    # Celery already warns before it sets logging up, for example about running as root.
    signals.celeryd_init.connect(_on_worker_init, weak=False)
    signals.setup_logging.connect(_on_setup_logging, weak=False)
    signals.celeryd_after_setup.connect(_on_worker_set_up, weak=False)


def configure(level: int | str, logfile: str | None = None, service: str | None = None) -> None:
    """Make the root logger, and everything that would print, log JSON lines.

    Args:
        level: the lowest level that is shown.
        logfile: the file, which is reopened after it was rotated away. None means standard error.
        service: the field of that name, unless SERVICE_NAME is set.
    """
    handler = LineFileHandler(logfile, encoding="utf-8") if logfile else LineHandler(sys.__stderr__)
    settings = get_settings()
    named = service is None or "service_name" in settings.model_fields_set
    handler.setFormatter(JsonFormatter(settings.service_name if named else str(service)))
    root = logging.getLogger()
    for logger, lowest in ((root, level), (get_pool_logger(), logging.ERROR)):
        for previous in logger.handlers[:]:
            logger.removeHandler(previous)
            if isinstance(previous, LineHandler | LineFileHandler) and previous is not handler:
                previous.close()
        logger.addHandler(handler)
        logger.setLevel(lowest)
    logging.captureWarnings(True)
    warnings.showwarning = _log_warning
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_uncaught_in_thread


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON. It does not change the record, because other handlers may follow."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = celery_lines.read(record)
        extra = dict(line.extra)
        fields: dict[str, Any] = {
            "timestamp": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": redaction.scrub(line.message),
            "service": self._service,
        }
        context = log_context.current(line.fields)
        if not celery_lines.is_own(record.name):  # the queue that the package means, not that of the running task
            context |= extra
        for name in (*log_context.FIELDS, "duration_ms"):
            value = context.get(name)
            fields[name] = redaction.field(name, extra.pop(name, None) if value is None else value)
        if line.error is not None:
            traceback = record.exc_info[2] if record.exc_info and record.exc_info[1] is line.error else None
            fields["error.type"] = faults.type_name(line.error)
            fields["error.message"] = redaction.scrub(faults.public_text(line.error) or faults.WITHHELD)
            fields["error.stack_trace"] = redaction.scrub(faults.stack_trace(line.error, traceback))
        elif isinstance(stack := extra.pop("error.stack_trace", None), str):
            fields["error.stack_trace"] = stack
        for name, value in extra.items():
            fields.setdefault(name, redaction.field(name, value))
        return fit({name: value for name, value in fields.items() if value is not None})


class _Lines(logging.Handler):
    """Writes a line with one system call, past Python's buffers: safe in a signal handler and after a fork."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record) + "\n")
        except OSError:
            pass  # no reader is left, and there is no other place to log
        except Exception as error:
            self._write(_unformattable(record, error) + "\n")

    def _write(self, line: str) -> None:
        raise NotImplementedError


class LineHandler(_Lines):
    """Writes to a stream."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, ValueError, AttributeError):
            self._descriptor = None

    def _write(self, line: str) -> None:
        if self._descriptor is not None:
            os.write(self._descriptor, line.encode())
        elif self._stream is not None:
            self._stream.write(line)


class LineFileHandler(_Lines, WatchedFileHandler):
    """Writes to a file. If the file was moved away, it begins a new one."""

    def _write(self, line: str) -> None:
        self.reopenIfNeeded()
        if self.stream is not None:
            os.write(self.stream.fileno(), line.encode())


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fit(fields: Mapping[str, Any]) -> str:
    """Encode `fields` as JSON of less than `LONGEST_LINE` bytes: long values lose their middle, then `extra` is left
    out.
    """
    shown = dict(fields)
    line = json.dumps(shown)
    for longest in (1_800, 900, 400, 150):
        if len(line) < LONGEST_LINE:
            return line
        for name, value in shown.items():
            if isinstance(value, str) and len(value) > longest:
                shown[name] = f"{value[: longest // 3]} […] {value[-longest * 2 // 3 :]}"
        line = json.dumps(shown)
    names = ("timestamp", "level", "logger", "message", "service", *log_context.FIELDS)
    return line if len(line) < LONGEST_LINE else json.dumps({n: shown[n] for n in names if n in shown})


def _unformattable(record: logging.LogRecord, error: Exception) -> str:
    return json.dumps(
        {
            "timestamp": timestamp(record.created),
            "level": "ERROR",
            "logger": __name__,
            "message": f"a record of logger {record.name} cannot be shown",
            "error.type": faults.type_name(error),
            "error.stack_trace": faults.stack_trace(error)[-1500:],
        }
    )


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    text = f": {message}" if issubclass(category, PLAIN_WARNINGS) else ""
    _logger.warning("%s at %s:%d%s", category.__name__, faults.relative(filename), lineno, text)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    _logger.critical("the process ends with an exception", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        name = arguments.thread.name if arguments.thread else "?"
        _logger.critical("thread %s ended with an exception", name, exc_info=arguments.exc_value)


def _log_unraisable(unraisable: Any) -> None:
    _logger.error("an exception could not be raised", exc_info=unraisable.exc_value)


def _on_setup_logging(loglevel: int | str | None, logfile: str | None, **_: Any) -> None:
    configure(loglevel or logging.WARNING, logfile)


def _on_worker_init(instance: Any, options: Mapping[str, Any], **_: Any) -> None:
    configure(options.get("loglevel") or logging.WARNING)
    # The banner and Celery's messages about signals are plain text, on the standard output of the same terminal or log.
    instance.quiet = True
    program: Any = celery_worker_program
    program.safe_say = _say
    # Celery's own dump of all threads (USR1) contains local variables, and so payloads.
    program.cry = faults.thread_stacks


def _on_worker_set_up(instance: Any, **_: Any) -> None:
    """Turn what tasks print into log lines, as Celery does where it configures logging itself."""
    conf = instance.app.conf
    if conf.worker_redirect_stdouts:
        instance.app.log.redirect_stdouts(conf.worker_redirect_stdouts_level)


def _say(message: str, _stream: Any = None) -> None:
    first, _, rest = message.strip().partition("\n")
    if not rest:
        _logger.info("%s", first)
    else:
        _logger.warning("stacks of all threads", extra={"error.stack_trace": message})
