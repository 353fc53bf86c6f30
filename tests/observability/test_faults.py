"""What may be said of an exception."""

from __future__ import annotations

import os
import pickle
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.exceptions import MaxRetriesExceededError, Retry
from celery.utils.serialization import get_pickleable_exception
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from app.core.errors import LoggableError
from app.observability import faults
from celery_postgres.errors import SchemaError

SECRET = "do-not-log-me"


class SpeaksError(LoggableError, ValueError):
    pass


def connection_error(text: str) -> OperationalError:
    return OperationalError("SELECT 1", {}, psycopg2.OperationalError(text))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(SECRET), "ValueError"),
        (KeyError(SECRET), "KeyError"),
        (SpeaksError("the field is too long"), "SpeaksError: the field is too long"),
        (FileNotFoundError(2, "x", f"/home/{SECRET}"), f"FileNotFoundError: [Errno 2] {os.strerror(2)}"),
        (OSError(SECRET), "OSError"),
        (Retry(SECRET, ValueError(SECRET), when=3), "celery.exceptions.Retry: retry in 3 s"),
        (MaxRetriesExceededError(SECRET), "celery.exceptions.MaxRetriesExceededError: no retries are left"),
        (TimeLimitExceeded(900), "billiard.exceptions.TimeLimitExceeded: the hard time limit of 900 s is over"),
        (WorkerLostError(f"SystemExit('{SECRET}')"), "billiard.exceptions.WorkerLostError"),
        (
            WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL) Job: 3."),
            "billiard.exceptions.WorkerLostError: Worker exited prematurely: signal 9 (SIGKILL) Job: 3.",
        ),
        (SchemaError("run this command"), "celery_postgres.errors.SchemaError: run this command"),
        (get_pickleable_exception(SpeaksError("clear")), "SpeaksError: clear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_only_texts_without_values_are_shown(error: BaseException, expected: str) -> None:
    assert faults.brief(error).replace(f"{__name__}.", "") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('connection to server at "10.0.0.7", port 5432 failed: Connection refused', "connection refused"),
        (f'FATAL:  password authentication failed for user "{SECRET}"', "the password was refused"),
        (f'FATAL:  database "{SECRET}" does not exist', "the role or the database does not exist"),
        ("FATAL:  sorry, too many clients already", "no connection slots are left"),
        (f'could not write to file "{SECRET}": No space left on device', "the server's disk is full"),
        ("timeout expired", "no answer in time"),
        (f'could not translate host name "{SECRET}" to address', "the host name cannot be resolved"),
        (f'invalid dsn: missing "=" after "postgresql:{SECRET}"', "the connection failed"),
        ("server closed the connection unexpectedly", "the server closed the connection"),
        ("SSL connection has been closed unexpectedly", "the server closed the connection"),
        ('relation "kombu_consumer" does not exist', "a table is missing"),
        ("SSL SYSCALL error: EOF detected", "the server closed the connection"),
        ("SSL SYSCALL error: Connection reset by peer", "connection reset"),
        (
            'connection to server at "ssl.example" (10.0.0.7), port 5432 failed: Connection refused',
            "connection refused",
        ),
        (
            "SSL error: certificate verify failed",
            "the server's TLS certificate has expired, or no CA in sslrootcert has signed it",
        ),
        (
            f'server certificate for "{SECRET}" does not match host name "{SECRET}"',
            "the server's TLS certificate is for another host name",
        ),
        (f'root certificate file "/{SECRET}" does not exist', "the file of sslrootcert cannot be read"),
        (
            "FATAL:  connection requires a valid client certificate",
            "the server asks for a client certificate and none is given",
        ),
        (f'FATAL:  certificate authentication failed for user "{SECRET}"', "the TLS certificate cannot be used"),
        ("SSL error: wrong version number", "TLS failed"),
        ("server does not support SSL, but SSL was required", "the server does not offer TLS"),
    ],
)
def test_a_failed_connection_is_told_in_our_words(text: str, expected: str) -> None:
    error = connection_error(text)
    assert faults.public_text(error) == expected
    assert faults.public_text(error.orig) == expected  # type: ignore[arg-type]


def test_an_error_of_the_server_is_its_code_and_the_names_of_its_objects(database: Any) -> None:
    with psycopg2.connect(database.url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE pets (name text CONSTRAINT one_name UNIQUE)")
        cursor.execute("INSERT INTO pets VALUES (%s)", (SECRET,))
        with pytest.raises(psycopg2.errors.UniqueViolation) as caught:
            cursor.execute("INSERT INTO pets VALUES (%s)", (SECRET,))
        connection.rollback()
        with pytest.raises(psycopg2.errors.InvalidTextRepresentation) as quoted:
            cursor.execute("SELECT CAST(%s AS integer)", (SECRET,))
    connection.close()
    assert SECRET in str(caught.value)
    assert SECRET in str(quoted.value)
    assert faults.public_text(caught.value) == "SQLSTATE 23505 (UniqueViolation), constraint one_name, table pets"
    assert faults.public_text(quoted.value) == "SQLSTATE 22P02 (InvalidTextRepresentation)"
    wrapped = DBAPIError.instance("INSERT", {}, caught.value, psycopg2.Error)
    assert isinstance(wrapped, IntegrityError)
    assert "SQLSTATE 23505" in faults.brief(wrapped)
    # As the main process of prefork gets it, from which the details are gone.
    assert faults.brief(pickle.loads(pickle.dumps(caught.value))).startswith(  # noqa: S301
        "psycopg2.errors.UniqueViolation: SQLSTATE 23505"
    )


def raise_chain(depth: int) -> None:
    local = SECRET
    try:
        if depth:
            raise_chain(depth - 1)
        else:
            {}[local]
    except (KeyError, ValueError) as error:
        note = ValueError(local)
        note.add_note(local)
        raise note from error


def test_a_stack_trace_has_places_and_no_values() -> None:
    with pytest.raises(ValueError, match=SECRET) as caught:
        raise_chain(2)
    text = faults.stack_trace(caught.value)
    assert SECRET not in text
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.index("KeyError") < text.index("ValueError")
    assert text.count("caused:") == 3
    assert "in raise_chain" in text


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert faults.stack_trace(first).count("caused:") == 1


def test_a_deep_stack_is_shortened_in_the_middle() -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        raise ValueError

    with pytest.raises(ValueError) as caught:  # noqa: PT011
        deep(200)
    text = faults.stack_trace(caught.value)
    assert text.count("\n") < 20
    assert " more)" in text


def test_what_comes_from_another_process_is_unwrapped_without_its_text() -> None:
    def fail() -> None:
        raise SpeaksError("clear") from ValueError(SECRET)

    try:
        fail()
    except SpeaksError:
        info = pickle.loads(pickle.dumps(ExceptionInfo()))  # noqa: S301
    text = faults.stack_trace(info.exception, info.tb)
    assert faults.type_name(info.exception).endswith("SpeaksError")
    assert SECRET not in text
    assert "test_what_comes_from_another_process" in text


def test_thread_stacks_show_no_variables() -> None:
    local = SECRET
    assert local not in faults.thread_stacks()
    assert "test_thread_stacks_show_no_variables" in faults.thread_stacks()
