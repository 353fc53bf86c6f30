"""Whether the server at an address has what this package needs: found out once per process and address.

Several engines answer to PostgreSQL's protocol and lack NOTIFY or advisory locks. A worker on one of them would start,
and fail in a place that does not show why. So the first connection tries out what everything else depends on, in one
round trip. Names decide only where trying out does not show it.
"""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2 import errorcodes

from celery_postgres.errors import UnsupportedServerError

#: The oldest PostgreSQL, as the server numbers it.
OLDEST = 140000
#: What is tried out, by what an error calls it. Each must leave nothing behind, also in a pooler's session.
_NEEDED = {
    "LISTEN": "BEGIN; LISTEN celery_postgres_probe; ROLLBACK",
    "NOTIFY": "BEGIN; NOTIFY celery_postgres_probe; ROLLBACK",
    "FOR UPDATE SKIP LOCKED": "SELECT 1 FROM (SELECT 1) AS one FOR UPDATE SKIP LOCKED",
    "advisory locks": "SELECT pg_try_advisory_xact_lock_shared(4827551, 1)",
    "pg_locks and pg_stat_activity": "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE false",
    "settings of the planner": "SELECT set_config('plan_cache_mode', 'force_generic_plan', true)",
    "its version": "SELECT version(), pg_backend_pid()",
}
_ALL = "; ".join(_NEEDED.values())
#: Engines with all of it, or soon, that cannot be used for another reason: a word of `version()`, and the reason.
_REFUSED = {
    "CockroachDB": "it has no LISTEN and NOTIFY, and its SKIP LOCKED may skip rows that nothing has locked",
}
#: What `version()` contains, or a parameter that only this engine reports, and the engine's name.
_NAMES = {
    "CockroachDB": "CockroachDB",
    "-YB-": "YugabyteDB",
    "Redshift": "Amazon Redshift",
    "CrateDB": "CrateDB",
    "Materialize": "Materialize",
    "RisingWave": "RisingWave",
    "QuestDB": "QuestDB",
    "Spanner": "Spanner",
    "DSQL": "Amazon Aurora DSQL",
    "Greenplum": "Greenplum",
}
_REPORTED = {"crdb_version": "CockroachDB", "mz_version": "Materialize", "crate_version": "CrateDB"}
_ADVICE = "use PostgreSQL 14 or newer, your own or a managed one (docs/guides/poolers-and-managed.md lists them)"

#: The classes of SQLSTATEs that say nothing of what a server can do: connections, resources, an operator.
_TEMPORARY = frozenset({"08", "53", "57"})
#: The connection strings whose servers can be used.
_verified: set[str] = set()


def verify(connection: Any, address: str | None = None) -> None:
    """Return if the server can be used.

    Args:
        connection: a psycopg2 connection in autocommit.
        address: its connection string; a second call for it in this process asks nothing. None asks each time.

    Raises:
        UnsupportedServerError: it cannot. The text names the server, what it lacks, and what to do.
        psycopg2.Error: it cannot be asked now.
    """
    if address in _verified:
        return
    known = next((name for word, name in _REPORTED.items() if connection.info.parameter_status(word)), "")
    _refuse_by_name(known)
    encoding = connection.info.parameter_status("server_encoding")
    with connection.cursor() as cursor:
        try:
            cursor.execute(_ALL)
            version, process = cursor.fetchone()
            if process != connection.info.backend_pid:
                _need_transactions(cursor, address)
        except psycopg2.Error as error:
            if error.pgcode == errorcodes.READ_ONLY_SQL_TRANSACTION:
                cursor.execute("ROLLBACK")
                # A standby: it can be read, and refuses a write in its own words. Asking again would log an error.
                _verified.update([address] if address else [])
                return
            _explain(connection, cursor, error, known)
            raise
    _refuse_by_name(known or _name(str(version)))
    if connection.info.server_version < OLDEST:
        raise UnsupportedServerError(
            f"the server is {_name(str(version)) or _short(str(version))}, which is too old: {_ADVICE}"
        )
    if encoding not in (None, "", "UTF8"):
        raise UnsupportedServerError(
            f"the database has the encoding {encoding}, which cannot store every text: create one with "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    if address is not None:
        _verified.add(address)


def _need_transactions(cursor: Any, address: str | None) -> None:
    """Refuse a pooler in statement mode. It ends the connection when a transaction begins, and libpq loses its message:
    so a second connection shows that it was not a coincidence.

    Raises:
        UnsupportedServerError: it is one.
        psycopg2.Error: the connection is lost for another reason.
    """
    try:
        cursor.execute("BEGIN")
        cursor.execute("ROLLBACK")
    except psycopg2.OperationalError:
        if address is None:
            raise
        with closing(psycopg2.connect(address, connect_timeout=5)) as second:
            second.autocommit = True
            again = second.cursor()
            again.execute("SELECT 1")
            try:
                again.execute("BEGIN")
            except psycopg2.OperationalError:
                raise UnsupportedServerError(
                    "a pooler before the database ends connections that begin a transaction, as in statement mode: set "
                    "its mode to session or transaction, or use the server's own address"
                ) from None
        raise


def _refuse_by_name(name: str) -> None:
    if name in _REFUSED:
        raise UnsupportedServerError(f"the server is {name}, which cannot be used: {_REFUSED[name]}; {_ADVICE}")


def _explain(connection: Any, cursor: Any, error: psycopg2.Error, known: str) -> None:
    """Raise an error that says what the server lacks; return if this error has another reason.

    Raises:
        UnsupportedServerError: it lacks something.
    """
    if connection.closed or error.pgcode is None or error.pgcode[:2] in _TEMPORARY:
        return
    lacking, version = [], ""
    for what, statement in _NEEDED.items():
        try:
            if connection.info.transaction_status:
                cursor.execute("ROLLBACK")
            cursor.execute(statement)
            version = str(cursor.fetchone()[0]) if what == "its version" else ""
        except psycopg2.Error as refused:
            if connection.closed:
                raise error from None
            if refused.pgcode != errorcodes.READ_ONLY_SQL_TRANSACTION:
                lacking.append(what)
    if lacking:
        name = known or _name(version) or _short(version) or "no PostgreSQL"
        raise UnsupportedServerError(f"the server is {name}, which lacks {', '.join(lacking)}: {_ADVICE}") from None


def _name(version: str) -> str:
    return next((name for word, name in _NAMES.items() if word.lower() in version.lower()), "")


def _short(version: str) -> str:
    """The first words of `version()`: the name and the number."""
    return " ".join(re.sub(r"[^\w .()+-]", "", version).split()[:2])[:60]
