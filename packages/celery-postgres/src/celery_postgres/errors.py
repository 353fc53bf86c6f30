"""What can go wrong, in words that may be logged: never a DSN, never a payload."""

from __future__ import annotations

import psycopg2
from kombu.exceptions import EncodeError
from psycopg2 import errorcodes


class SchemaError(Exception):
    """The database lacks tables, columns or rights that the broker needs; waiting does not bring them.

    A worker that starts says so and ends. One that runs waits: a dump may be under restoration, or a right was revoked
    by a slip.
    """


class LeaseLost(psycopg2.OperationalError):
    """Other workers have taken over what this process had claimed, because it was silent for too long.

    An `OperationalError`, so that Kombu and Celery treat it as a lost connection and connect anew.
    """


class ReadOnlyError(psycopg2.OperationalError):
    """The database takes no writes: it is a standby, or was set read-only.

    An `OperationalError`, which PostgreSQL's own class for it is not, so that Kombu and Celery treat it as a lost
    connection: whether a session may write is settled when it connects, and another one may find the primary.
    """


class UnstorableResultError(EncodeError):
    """A result, a state or an id that cannot be stored. Its text names types and lengths, and quotes nothing.

    An `EncodeError`, so that Celery makes it the failure of its task.
    """


class NotPublishedError(Exception):
    """A message was not published in the caller's transaction (`publishing_on`). Its text quotes nothing.

    Attributes:
        sqlstate: PostgreSQL's code, if it was PostgreSQL that refused: 40001 and 40P01 may be done again from the
            beginning of the transaction.
        lasting: whether it would be refused again: it is the message, and not the moment.
        lagging: the table whose sequence has given an id that is there already.
    """

    def __init__(
        self, text: str, sqlstate: str | None = None, *, lasting: bool = False, lagging: str | None = None
    ) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.lasting = lasting
        self.lagging = lagging


#: SQLSTATE classes by which PostgreSQL refuses a value: data, a constraint, a limit.
_OF_A_VALUE = frozenset({"22", "23", "54"})
#: Functions of the server that raise class 54 for something else: the NOTIFY queue is full, no transaction id is left,
#: a table or its file has its greatest size. (The message may be in any language.)
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

#: SQLSTATE of what a migration mends: undefined table, column, function, unique index.
_SCHEMA_CODES = frozenset({"42P01", "42703", "42883", "42P10"})
_NO_RIGHT = "42501"
#: What libpq (15 to 17) says of a certificate that has expired, and of one whose CA is another, alike.
_UNVERIFIED = "certificate verify failed"


class Reason(str):
    """What the driver says of an error, for people who may read everything.

    Attributes:
        condition: SQLSTATE and the name that the manual has for it (appendix A), as `53100 disk_full`, for everybody
            else: it quotes nothing, whatever language the server speaks. None where there is no SQLSTATE, as when the
            server is not reached.
    """

    condition: str | None = None


def condition(error: BaseException) -> str | None:
    """`Reason.condition` of an error."""
    code: str | None = getattr(error, "pgcode", None)
    if not code:
        return None
    try:
        return f"{code} {errorcodes.lookup(code).lower()}"
    except KeyError:  # of a newer server, or of a function's own
        return code


def primary(error: BaseException) -> Reason:
    """The driver's message without the statement: `str()` of a psycopg2 error quotes the line that failed, with its
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
    """What libpq says, and what it does not say of it."""
    if line.endswith(_UNVERIFIED):
        return f"{line}: the server's has expired or is not yet valid, or no CA in sslrootcert has signed it"
    return line


def loggable(error: BaseException) -> BaseException | str:
    """What a log line says of it. A `SchemaError` is said whole: its text quotes nothing, and names what to do."""
    return error if isinstance(error, SchemaError) else primary(error)


def lagging(error: BaseException) -> str | None:
    """The table whose sequence has given an id that is there already: after logical replication, which copies no
    sequences, or a restore of parts. None if it is not that."""
    if getattr(error, "pgcode", None) != errorcodes.UNIQUE_VIOLATION:
        return None
    diagnosis = error.diag  # type: ignore[attr-defined]
    table: str | None = diagnosis.table_name
    return table if table in _NUMBERED and diagnosis.constraint_name == f"{table}_pkey" else None


def is_lasting(error: BaseException) -> bool:
    """Whether a value is refused, so that another try would end alike for ever.

    Everything else is what the server cannot do now: it is away, starts, is full, has no connection left, takes no
    writes, was told to stop the statement; somebody has locked a table, revoked a right or is about to migrate. That
    passes, or a person sees to it, and nothing is to be given up because of it.
    """
    known: bool | None = getattr(error, "lasting", None)
    if known is not None:
        return known
    if not isinstance(error, psycopg2.Error):
        return isinstance(error, ValueError | TypeError | OverflowError)  # the driver cannot send the value
    if error.pgcode is None:
        return isinstance(error, psycopg2.DataError | psycopg2.ProgrammingError | psycopg2.NotSupportedError)
    if error.pgcode[:2] not in _OF_A_VALUE or lagging(error) is not None:
        return False
    return error.diag.source_function not in _OF_THE_MOMENT


def translate(error: psycopg2.Error, role: str = "", statement: str = "") -> Exception:
    """The same error in words that help and do not tell.

    Parameters:
        role: who connected, if that is known.
        statement: the name of what was to be executed, if it has one.
    """
    if error.pgcode in _SCHEMA_CODES:
        return SchemaError(
            f"the broker's tables are missing, older than this release or not on the search_path ({primary(error)}): "
            "run `alembic upgrade head` where the project has migrations, else celery_postgres.create_schema(engine)"
        )
    if error.pgcode == _NO_RIGHT:
        who, what = f"the role {role}".rstrip(), f" what the statement {statement} needs" if statement else " this"
        return SchemaError(
            f"{who} may not do{what} ({primary(error)}): as the owner of the tables, grant it that, or the role of "
            "ops/postgres/roles.sql that is made for its work"
        )
    return restated(error, ReadOnlyError if error.pgcode == errorcodes.READ_ONLY_SQL_TRANSACTION else type(error))


def restated(error: psycopg2.Error, kind: type[psycopg2.Error]) -> psycopg2.Error:
    """The same error as one of `kind`, without the statement, and with its SQLSTATE."""
    plain = kind(_message(error))
    # `pgcode` can be set in no other way; this is how psycopg2 itself unpickles it.
    plain.__setstate__({"pgcode": error.pgcode})  # type: ignore[no-untyped-call]
    plain.lasting = is_lasting(error)  # type: ignore[attr-defined]  # what tells it is in the diagnosis, which stays behind
    return plain
