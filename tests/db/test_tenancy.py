"""The tenant on a connection: present in each transaction of a tenant's work, absent in everything else."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.core.context import working_for
from app.core.settings import Settings
from app.db.engine import build_engine
from app.db.tenancy import get_tenant_guc, reset_tenant_guc, set_tenant_guc

A, B = uuid4(), uuid4()


@pytest.fixture
def engine(database) -> Iterator[Engine]:
    """The application's engine with a pool of one connection, so that every leak would be seen."""
    engine = build_engine(Settings(database_url=database.url, _env_file=None), pool_size=1)
    yield engine
    engine.dispose()


def seen(engine: Engine) -> UUID | None:
    with engine.connect() as connection:
        return get_tenant_guc(connection)


def test_each_transaction_has_the_tenant_of_its_time(engine: Engine) -> None:
    assert seen(engine) is None
    with working_for(A, None):
        assert seen(engine) == A
        with working_for(B, None):
            assert seen(engine) == B
        assert seen(engine) == A
    assert seen(engine) is None


def test_a_second_transaction_on_one_connection_has_it_too(engine: Engine) -> None:
    with working_for(A, None), engine.connect() as connection:
        assert get_tenant_guc(connection) == A
        connection.commit()
        assert get_tenant_guc(connection) == A
        connection.rollback()
        assert get_tenant_guc(connection) == A


def test_sessions_have_it(engine: Engine) -> None:
    with working_for(A, None), Session(engine) as session:
        assert get_tenant_guc(session.connection()) == A
        session.commit()
        assert get_tenant_guc(session.connection()) == A


def test_an_exception_in_the_middle_leaves_nothing(engine: Engine) -> None:
    def fails() -> None:
        with working_for(A, None), engine.begin() as connection:
            assert get_tenant_guc(connection) == A
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert seen(engine) is None


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_session_level_tenant_does_not_reach_the_next_checkout(engine: Engine, end: str) -> None:
    with engine.connect() as connection:
        set_tenant_guc(connection, A, local=False)
        connection.commit()
        assert get_tenant_guc(connection) == A
        getattr(connection, end)()
        assert get_tenant_guc(connection) == A
    assert seen(engine) is None


def test_nor_does_one_that_a_task_set_by_itself(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text(f"SET app.current_tenant_id = '{A}'"))
        connection.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert get_tenant_guc(connection) is None
        connection.execute(text(f"SET app.current_tenant_id = '{B}'"))
    assert seen(engine) is None


def test_a_local_tenant_ends_with_its_transaction(engine: Engine) -> None:
    with engine.connect() as connection:
        set_tenant_guc(connection, str(A), local=True)
        assert get_tenant_guc(connection) == A
        connection.commit()
        assert get_tenant_guc(connection) is None


def test_reset_forgets_both(engine: Engine) -> None:
    with engine.connect() as connection:
        set_tenant_guc(connection, A, local=False)
        set_tenant_guc(connection, B, local=True)
        reset_tenant_guc(connection)
        assert get_tenant_guc(connection) is None
        connection.commit()
        assert get_tenant_guc(connection) is None


def test_only_a_uuid_is_a_tenant(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(ValueError, match="UUID"):
        set_tenant_guc(connection, "'; DROP TABLE kombu_message; --", local=False)


def test_errors_do_not_quote_parameters(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(Exception, match="hidden") as caught:
        connection.execute(text("SELECT 1/0, :secret"), {"secret": "hunter2"})
    assert "hunter2" not in str(caught.value)
