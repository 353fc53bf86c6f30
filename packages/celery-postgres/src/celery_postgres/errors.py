"""The package's errors. Their texts may be logged: they say what to do, and never quote a DSN or a payload."""

from __future__ import annotations

import psycopg2
from amqp.exceptions import RecoverableConnectionError
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import EncodeError, OperationalError
from psycopg2 import errorcodes


class CeleryPostgresError(Exception):
    """The base of all errors of this package that a program may want to catch."""


class SchemaError(CeleryPostgresError):
    """The database lacks tables, columns or rights that the package needs. Waiting does not help.

    A worker that starts reports it and exits. A running worker waits: a dump may be under restoration, or somebody
    revoked a right by mistake.

    Attributes:
        outdated: tables, columns or functions are missing, which a migration creates.
    """

    outdated = False


class UnsupportedServerError(SchemaError):
    """The server is no PostgreSQL that this package can use, or a pooler before it allows no transactions. The text
    says what it lacks, and what to use."""


class LeaseLost(CeleryPostgresError, psycopg2.OperationalError):  # noqa: N818  a path that stays
    """Other workers took over the messages that this process had claimed, because it was silent for too long.

    It is an `OperationalError`, so that Kombu and Celery treat it as a lost connection and reconnect.
    """


class ReadOnlyError(CeleryPostgresError, psycopg2.OperationalError):
    """The database accepts no writes: it is a standby, or was set read-only.

    It is an `OperationalError`, which psycopg2's own class for it is not, so that Kombu and Celery treat it as a lost
    connection and reconnect: PostgreSQL decides when a session connects whether it may write, and a new connection may
    find the primary.
    """


class UnstorableResultError(CeleryPostgresError, EncodeError):
    """A result, a state or an id that cannot be stored. Its text names types and lengths, and quotes nothing.

    It is an `EncodeError`, so that Celery makes it the failure of its task.
    """


class OptionError(CeleryPostgresError, ImproperlyConfigured, ValueError):
    """A transport option is unknown, or its value is wrong. The text never quotes a value, which may be a secret."""


class FlowError(CeleryPostgresError, ValueError):
    """A key, a limit, or another part of a `Flow` is not one. Nothing was published or changed."""


class RateLimited(FlowError):  # noqa: N818  what has happened, and no fault of the program
    """A rate limit refuses messages: nothing was published, neither this message nor those that go with it.

    Attributes:
        queue: the queue.
        key: the `flow_key` whose rate refuses; empty if it is that of messages without a key, and None if the rate is
            that of the whole queue.
        retry_in_s: seconds until the same messages would be admitted, if nothing else is published. None if they never
            are: the rate is 0, or more messages were published together than the burst. Publish fewer together, or
            change the limit.
    """

    def __init__(self, queue: str, key: str | None, retry_in_s: float | None) -> None:
        when = (
            "waiting does not help, because its rate is 0 or its burst is less than what is published together"
            if retry_in_s is None
            else f"try again in {max(retry_in_s, 0.001):.3f} s"
        )
        if key is None:
            what = f"the rate limit of the whole queue {queue!r} refuses more messages"
        else:
            whose = f"the key {key!r}" if key else "messages without a key"
            what = f"a rate limit of the queue {queue!r} refuses {whose}"
        super().__init__(f"not published: {what}; {when}")
        self.queue, self.key, self.retry_in_s = queue, key, retry_in_s

    def __reduce__(self) -> tuple[type[RateLimited], tuple[str, str | None, float | None]]:
        return type(self), (self.queue, self.key, self.retry_in_s)


class AddressError(CeleryPostgresError, ImproperlyConfigured, ValueError):
    """An address of the broker or the result backend has a typing error. The text quotes its scheme alone."""


class NotPublishedError(CeleryPostgresError):
    """A message was not published: in the caller's transaction (`publishing_on`), or in one of several databases. Its
    text quotes nothing.

    Attributes:
        sqlstate: PostgreSQL's code, or None if PostgreSQL did not refuse it. After 40001 and 40P01 the caller may
            repeat the whole transaction.
        lasting: True if another attempt would be refused too, because the message itself is at fault.
        lagging: the table whose sequence returned an id that is already in use; None if that is not the reason.
    """

    def __init__(
        self, text: str, sqlstate: str | None = None, *, lasting: bool = False, lagging: str | None = None
    ) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.lasting = lasting
        self.lagging = lagging


class DuplicateTaskError(NotPublishedError):
    """A task was not published, because another one holds its unique key: it waits or runs.

    Attributes:
        task_id: the id of that one.
        state: `waits` or `runs`.
    """

    def __init__(self, task_id: str, state: str = "waits") -> None:
        super().__init__(f"not published: the task {task_id}, which {state}, holds its unique key", lasting=True)
        self.task_id, self.state = task_id, state

    def __reduce__(self) -> tuple[type[DuplicateTaskError], tuple[str, str]]:
        return type(self), (self.task_id, self.state)


#: The SQLSTATE classes of a refused value: data exception, constraint violation, program limit exceeded.
_OF_A_VALUE = frozenset({"22", "23", "54"})
#: Server functions that raise class 54 for another reason: the NOTIFY queue is full, no transaction ids are left,
#: or a table or its file has reached its maximum size. The message itself may be in any language.
_OF_THE_MOMENT = frozenset(
    {
        "PreCommit_Notify",
        "GetNewTransactionId",
        "GetNewMultiXactId",
        "mdextend",
        "mdzeroextend",
        "_mdfd_getseg",
        "ReadBuffer_common",
        "ExtendBufferedRelCommon",
        "ExtendBufferedRelLocal",
        "ExtendBufferedRelShared",
    }
)
#: The tables whose ids come from sequences.
_NUMBERED = frozenset({"kombu_message", "kombu_queue", "kombu_dead_letter", "celery_taskmeta", "celery_tasksetmeta"})

#: Kombu and Celery raise the last two: the broker is unreachable, and a channel has lost its connection.
_UNREACHABLE = (psycopg2.Error, SchemaError, OperationalError, RecoverableConnectionError)
#: libpq (15 to 17) reports an expired certificate and an unknown CA in the same words.
_UNVERIFIED = "certificate verify failed"


class Reason(str):
    """The driver's message for an error. It may quote data, so it is for people who may read everything.

    Attributes:
        condition: the SQLSTATE and its name in the manual (appendix A), such as `53100 disk_full`. It quotes nothing,
            whatever language the server speaks. None without a SQLSTATE, for example if the server is unreachable.
    """

    condition: str | None = None


def condition(error: BaseException) -> str | None:
    """The `Reason.condition` of an error."""
    code: str | None = getattr(error, "pgcode", None)
    if not code:
        return None
    try:
        return f"{code} {errorcodes.lookup(code).lower()}"
    except KeyError:  # a newer server's code, or one that a function of the user raises
        return code


def primary(error: BaseException) -> Reason:
    """The driver's message without the statement. `str()` of a psycopg2 error quotes the line that failed, with its
    values."""
    reason = Reason(_message(error))
    reason.condition = condition(error)
    return reason


def _message(error: BaseException) -> str:
    diagnosis = getattr(error, "diag", None)
    message = getattr(diagnosis, "message_primary", None)
    if message:
        return str(message)
    lines = str(error).strip().splitlines()
    return explained(lines[0].strip()) if lines else type(error).__name__


def explained(line: str) -> str:
    """libpq's message, with the possible causes where libpq names none."""
    if line.endswith(_UNVERIFIED):
        return f"{line}: the server's has expired or is not yet valid, or no CA in sslrootcert has signed it"
    return line


def loggable(error: BaseException) -> BaseException | str:
    """The argument for a log line. A `SchemaError` is logged whole: it quotes nothing, and says what to do. Of Kombu's
    error it is the reason."""
    if isinstance(error, OperationalError) and error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, SchemaError) else primary(error)


def lagging(error: BaseException) -> str | None:
    """The table whose sequence returned an id that is already in use; None if the error has another reason.

    That happens after logical replication, which copies no sequences, and after a partial restore.
    """
    code: str | None = getattr(error, "pgcode", None)
    if code != errorcodes.UNIQUE_VIOLATION:
        return None
    diagnosis = error.diag  # type: ignore[attr-defined]
    return lagging_table(code, diagnosis.table_name, diagnosis.constraint_name)


def lagging_table(sqlstate: str | None, table: str | None, constraint: str | None) -> str | None:
    """The table, if this is the violation of the key that its sequence fills."""
    is_key = sqlstate == errorcodes.UNIQUE_VIOLATION and table in _NUMBERED and constraint == f"{table}_pkey"
    return table if is_key else None


def name_database(error: Exception, name: str | None) -> None:
    """Put the name of a fleet's database before the text of an error, once."""
    if name is not None and getattr(error, "database", None) is None:
        error.args = (f"the database {name}: {error}",)
        error.database = name  # type: ignore[attr-defined]


def is_lasting(error: BaseException) -> bool:
    """Whether PostgreSQL or the driver refuses a value, so that every further attempt would fail too.

    Any other error is temporary: the server is unreachable, starting, full, out of connections, read-only or cancelled
    the statement; or somebody locked a table, revoked a right or is about to migrate. It passes, or a person repairs
    it, so nothing may be given up because of it.
    """
    known: bool | None = getattr(error, "lasting", None)
    if known is not None:
        return known
    if not isinstance(error, psycopg2.Error):
        return isinstance(error, ValueError | TypeError | OverflowError)  # the driver could not send the value
    if error.pgcode is None:
        return isinstance(error, psycopg2.DataError | psycopg2.ProgrammingError | psycopg2.NotSupportedError)
    return lagging(error) is None and refuses_value(error.pgcode, error.diag.source_function)


def is_temporary(error: BaseException | None) -> bool:
    """Whether a database, or the broker, cannot do now what it may do later: no failure of a task or of a message."""
    return isinstance(error, _UNREACHABLE) and not is_lasting(error)


def refuses_value(sqlstate: str, source_function: str | None) -> bool:
    """Whether PostgreSQL refuses a value with this SQLSTATE, raised by this function of the server."""
    return sqlstate[:2] in _OF_A_VALUE and source_function not in _OF_THE_MOMENT
