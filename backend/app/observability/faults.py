"""What may be shown of an exception in a log line or on a health page.

An exception of a task body may quote its data (`ValueError: no such customer …`), so its text is shown only where it is
known to contain no values:

- `LoggableError` promises that: its text.
- The broker's `SchemaError`: its text, which names tables, columns and the command that creates them.
- SQLAlchemy and psycopg2: SQLSTATE, class, constraint and table; for a failed connection, one of the fixed texts below.
  Never the server's message or DETAIL, which quote rows, and never a DSN.
- Celery's own: time limits, lost processes, retries, in fixed words.
- `OSError`: number and name of the error, not the file.
- Every other: the type and the frames. The text is in the task's result, which the grants of `celery_taskmeta` protect.

Stack traces are files, lines and functions: no source lines, no locals, no notes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import psycopg2
from billiard.einfo import ExceptionWithTraceback, RemoteTraceback  # type: ignore[attr-defined]  # old stubs
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery.exceptions import MaxRetriesExceededError, Retry
from celery.utils.serialization import UnpickleableExceptionWrapper
from kombu.exceptions import OperationalError as BrokerOperationalError
from sqlalchemy.exc import DBAPIError

from app.core.errors import LoggableError
from celery_postgres.errors import SchemaError, UnstorableResultError

WITHHELD = "withheld: it may quote data"
DEEPEST_CHAIN = 5
#: Frames of one exception: the outermost show which loop it ran in, the innermost what went wrong.
OUTER_FRAMES, INNER_FRAMES = 2, 12

#: libpq's errors carry no SQLSTATE, and their text names users and quotes parts of broken DSNs. So a part of the text
#: that identifies the fault (in PostgreSQL 15 to 18) is replaced by words of our own. The first match counts.
CONNECTION_FAULTS = (
    ("password authentication failed", "the password was refused"),
    ("no password supplied", "the server asks for a password and none is given"),
    ("no pg_hba.conf entry", "pg_hba.conf has no entry for this host, user and database"),
    ("certificate verify failed", "the server's TLS certificate has expired, or no CA in sslrootcert has signed it"),
    ("does not match host name", "the server's TLS certificate is for another host name"),
    ("root certificate file", "the file of sslrootcert cannot be read"),
    ("requires a valid client certificate", "the server asks for a client certificate and none is given"),
    ("certificate", "the TLS certificate cannot be used"),
    ("could not translate host name", "the host name cannot be resolved"),
    ("too many clients", "no connection slots are left"),
    ("remaining connection slots", "no connection slots are left"),
    ("too many connections", "no connection slots are left"),
    ("is starting up", "the server is starting up"),
    ("not yet accepting connections", "the server is starting up"),
    ("is shutting down", "the server is shutting down"),
    ("in recovery mode", "the server is recovering from a crash"),
    ("terminating connection", "the server ended the connection"),
    ("server closed the connection unexpectedly", "the server closed the connection"),
    ("ssl connection has been closed unexpectedly", "the server closed the connection"),
    ("connection already closed", "the connection is closed"),
    ("connection refused", "connection refused"),
    ("connection reset", "connection reset"),
    ("broken pipe", "connection broken"),
    ("eof detected", "the server closed the connection"),
    ("could not receive data", "connection broken"),
    ("could not send data", "connection broken"),
    ("no space left on device", "the server's disk is full"),
    ("out of memory", "the server is out of memory"),
    ("timeout expired", "no answer in time"),
    ("timed out", "no answer in time"),
    ("no such file or directory", "no server listens on the socket"),
    ("no route to host", "no route to the host"),
    ("network is unreachable", "the network is unreachable"),
    ('relation "', "a table is missing"),
    ("does not exist", "the role or the database does not exist"),
    ("permission denied", "permission denied"),
    # Last: libpq also reports a lost encrypted connection with these words, and a host name may contain them.
    ("ssl error", "TLS failed"),
    ("support ssl", "the server does not offer TLS"),
)
_LOST = re.compile(r"Worker exited prematurely: (?:signal \d+ \(\w+\)|exitcode \d+)(?: Job: \d+\.)?")


def type_name(error: BaseException) -> str:
    """The class of `error`, with its module unless it is a builtin."""
    error = unwrap(error)
    if isinstance(error, UnpickleableExceptionWrapper):
        return f"{error.exc_module}.{error.exc_cls_name}"
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def public_text(error: BaseException) -> str | None:
    """The text of `error` that may be shown beside its type; None where its text is withheld."""
    error = unwrap(error)
    if isinstance(error, (LoggableError, SchemaError, UnstorableResultError)):
        return str(error)
    if isinstance(error, DBAPIError):
        return _database_text(error.orig or error)
    if isinstance(error, psycopg2.Error):
        return _database_text(error)
    if isinstance(error, BrokerOperationalError):
        # Kombu's own error has PostgreSQL's text, and PostgreSQL's error as its cause.
        return _database_text(error.__cause__ if isinstance(error.__cause__, psycopg2.Error) else error)
    if isinstance(error, OSError):
        return f"[Errno {error.errno}] {os.strerror(error.errno)}" if isinstance(error.errno, int) else None
    return _celery_text(error)


def brief(error: BaseException) -> str:
    """`error` in one line: its type and, where it may be shown, its text."""
    text = public_text(error)
    return type_name(error) + (f": {text}" if text else "")


def database_text(error: DBAPIError | psycopg2.Error) -> str:
    """What is wrong with the database, in words that name no user and quote no value."""
    return public_text(error) or type_name(error)


def stack_trace(error: BaseException, traceback: TracebackType | None = None) -> str:
    """The frames of `error` and of its causes, the first cause first."""
    blocks: list[str] = []
    for exception, frames, link in _chain(unwrap(error), traceback):
        lines = ["Traceback (most recent call last):", *frames] if frames else []
        block = "\n".join([*lines, brief(exception)])
        blocks.append(block + link)
    return "\n".join(reversed(blocks))


def unwrap(error: BaseException) -> BaseException:
    """The exception itself, where billiard wrapped it to send it between processes."""
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def thread_stacks() -> str:
    """The frames of all threads."""
    return "\n".join(
        "\n".join([f"thread {ident}:", *_stack_frames(frame)]) for ident, frame in sys._current_frames().items()
    )


def _chain(error: BaseException, traceback: TracebackType | None) -> Iterator[tuple[BaseException, list[str], str]]:
    seen: set[int] = set()
    current: BaseException | None = error
    frames = traceback or error.__traceback__
    link = ""
    while current is not None and id(current) not in seen and len(seen) < DEEPEST_CHAIN:
        seen.add(id(current))
        yield current, _traceback_frames(frames), link
        cause = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        link = "\n" + ("caused:" if current.__cause__ else "and while that was handled:")
        # billiard adds the other process's traceback as text, which contains values.
        current = None if isinstance(cause, RemoteTraceback) or cause is None else unwrap(cause)
        frames = current.__traceback__ if current is not None else None


def _traceback_frames(traceback: Any) -> list[str]:
    frames = []
    while traceback is not None:
        frames.append(_frame(traceback.tb_frame.f_code, traceback.tb_lineno))
        traceback = traceback.tb_next
    return _shortened(frames)


def _stack_frames(frame: Any) -> list[str]:
    frames = []
    while frame is not None:
        frames.append(_frame(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return _shortened(frames[::-1])


def _shortened(frames: list[str]) -> list[str]:
    left_out = len(frames) - OUTER_FRAMES - INNER_FRAMES
    if left_out < 2:
        return frames
    return [*frames[:OUTER_FRAMES], f"  ({left_out} more)", *frames[-INNER_FRAMES:]]


def _frame(code: Any, line: int | None) -> str:
    return f'  File "{relative(code.co_filename)}", line {line}, in {code.co_name}'


def relative(path: str) -> str:
    """`path` as it would be imported: shorter, and the same on every machine."""
    roots = [root for root in sys.path if root and path.startswith(root.rstrip(os.sep) + os.sep)]
    return path[len(max(roots, key=len).rstrip(os.sep)) + 1 :] if roots else path


def _database_text(error: BaseException) -> str:
    state = getattr(error, "pgcode", None)
    if not state:
        return _connection_text(str(error))
    diag = getattr(error, "diag", None)
    named = [
        f"{what} {value}"
        for what, value in (
            ("constraint", getattr(diag, "constraint_name", None)),
            ("table", getattr(diag, "table_name", None)),
        )
        if value
    ]
    return ", ".join([f"SQLSTATE {state} ({type(error).__name__})", *named])


def _connection_text(text: str) -> str:
    return connection_fault(text) or "the connection failed"


def connection_fault(text: str) -> str | None:
    """Our words for libpq's text about a connection; None for an unknown text."""
    lowered = text.lower()
    return next((ours for theirs, ours in CONNECTION_FAULTS if theirs in lowered), None)


def _celery_text(error: BaseException) -> str | None:
    if isinstance(error, Retry):
        return f"retry in {error.when:g} s" if isinstance(error.when, int | float) else "retry"
    if isinstance(error, MaxRetriesExceededError):
        return "no retries are left"
    if isinstance(error, SoftTimeLimitExceeded):
        return "the soft time limit is over"
    if isinstance(error, TimeLimitExceeded):
        limit = error.args[0] if error.args else None
        return f"the hard time limit of {limit:g} s is over" if isinstance(limit, int | float) else None
    if isinstance(error, WorkerLostError):
        text = str(error)
        return text if _LOST.fullmatch(text) else None
    return None
