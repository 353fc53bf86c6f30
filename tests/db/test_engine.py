"""The connections that tasks share."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.db.engine import build_engine
from app.db.transient import TransientDatabaseError, transient_errors

_WRITE = text("CREATE TABLE written ()")


def test_a_connection_that_may_not_write_is_not_kept(database: Any) -> None:
    """It would go on so for as long as it lives, and tasks would fail on a database that takes writes again."""
    engine = build_engine(Settings(database_url=database.url, _env_file=None))
    with closing(psycopg2.connect(PostgresDSN.parse(database.url).libpq())) as owner:
        owner.autocommit = True
        owner.cursor().execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
        with (
            pytest.raises(TransientDatabaseError, match=r"the database takes no writes \(SQLSTATE 25006\)") as caught,
            transient_errors(),
            engine.begin() as connection,
        ):
            connection.execute(_WRITE)
        assert isinstance(caught.value.__cause__, DBAPIError)
        owner.cursor().execute(f'ALTER DATABASE "{database.name}" RESET default_transaction_read_only')
    with engine.begin() as connection:
        connection.execute(_WRITE)
    engine.dispose()
