"""Whether stock Kombu's consumers may take messages.

Migration 0009 creates a trigger that refuses them. They are allowed while it is disabled, or before there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery_postgres.database.migrations.executing import Executor
from celery_postgres.database.migrations.files import MigrationError, Step

#: The number of the migration that creates the trigger.
SINCE = 9
#: For people: what `migrate` and `check` report.
ALLOWED = (
    "stock Kombu's consumers are allowed, and lose the tasks of a worker that is killed: when the last one has ended, "
    "run `python -m celery_postgres migrate --refuse-stock`"
)
_STATE = """
    SELECT tgenabled <> 'D' FROM pg_trigger
    WHERE tgrelid = to_regclass('kombu_message') AND tgname = 'kombu_message_stock'
"""
_IS = """
    EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass('kombu_message') AND tgname = 'kombu_message_stock'
        AND (tgenabled = 'D') = {})
"""
#: 0009 reads it: the trigger is disabled in the transaction that creates it, so that no worker meets it in between.
_ASK = "SELECT set_config('celery_postgres.allow_stock', %s, false)"
_SWITCH = {
    True: Step(
        "step",
        "allow stock consumers",
        _IS.format("true"),
        "ALTER TABLE kombu_message DISABLE TRIGGER kombu_message_stock",
    ),
    False: Step(
        "step",
        "refuse stock consumers",
        _IS.format("false"),
        "ALTER TABLE kombu_message ENABLE TRIGGER kombu_message_stock",
    ),
}


def refused(cursor: Any) -> bool | None:
    """Whether the schema refuses stock consumers; None where no migration has decided it."""
    cursor.execute(_STATE)
    found = cursor.fetchone()
    return None if found is None else bool(found[0])


@contextmanager
def asked(cursor: Any, allow: bool | None) -> Iterator[None]:
    """Migration 0009 allows or refuses as asked, if it is applied in the block; None lets it decide by the rows."""
    cursor.execute(_ASK, ("" if allow is None else str(allow).lower(),))
    try:
        yield
    finally:
        if not cursor.connection.closed:
            cursor.execute(_ASK, ("",))


def verify(allow: bool | None, to: int | None) -> None:
    """Raise an error if no schema of that number can do what is asked.

    Raises:
        MigrationError: it cannot.
    """
    if allow is False and to is not None and to < SINCE:
        raise MigrationError(f"version {to} cannot refuse stock consumers: that begins with version {SINCE}")


def switch(executor: Executor, cursor: Any, allow: bool | None, tell: Callable[[str], object]) -> None:
    """Allow or refuse as asked, and report it if stock consumers are allowed then.

    Raises:
        LockHeldError: another session kept the table locked.
    """
    if refused(cursor) is None:
        return
    if allow is not None:
        executor.apply([_SWITCH[allow]])
    if not refused(cursor):
        tell(ALLOWED)
