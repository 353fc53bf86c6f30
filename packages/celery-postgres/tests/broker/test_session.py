"""What a session tells of an error, and what it mends itself."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from celery_postgres.database.session import Session
from environment.testkit.tables import terminate


@pytest.fixture
def session(module_database: Any) -> Iterator[Session]:
    """One that has prepared a statement."""
    made = Session(module_database.url)
    assert made.run("find_queue", queue="none") == []
    yield made
    made.close()


def text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_in_a_transaction_the_first_error_is_told_and_the_next_transaction_goes_well(session: Session) -> None:
    session.script("DEALLOCATE ALL")
    with pytest.raises(psycopg2.errors.InvalidSqlStatementName) as told, session.transaction():
        session.run("find_queue", queue="secret")
    assert "EXECUTE" not in text(told.value)
    with session.transaction():
        assert session.run("find_queue", queue="none") == []
    assert not session.pooled


def test_a_connection_that_is_lost_while_an_error_is_mended_is_told(
    session: Session, module_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mend = session._doubt_ownership

    def lose_connection(error: psycopg2.Error) -> None:
        terminate(module_database.url, session._backend)
        mend(error)

    monkeypatch.setattr(session, "_doubt_ownership", lose_connection)
    session.script("DEALLOCATE ALL")
    with pytest.raises(psycopg2.OperationalError) as told:
        session.run("find_queue", queue="secret")
    assert session.closed
    assert told.value.__suppress_context__  # nor is the first error shown, with its statement
    assert "EXECUTE" not in text(told.value)
