"""Refreshing materialized views."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from psycopg2 import sql
from pydantic import BaseModel
from sqlalchemy import Connection, Engine, text

from app.core.errors import LoggableError
from app.db.advisory import set_lock_timeout, try_transaction_lock

#: CONCURRENTLY does not block readers, but waits for other writers of the view (VACUUM, DDL).
LOCK_TIMEOUT_MS = 5_000
SKIPPED = "skipped: already running"

#: While this setting names the view, the row-level security policy of the view's source admits the view's owner.
#: Without it the view would be empty under FORCE ROW LEVEL SECURITY (docs/decisions/0004).
_SAY_WHICH = text("SELECT set_config('app.refreshing_view', :view, true)")
_POPULATED = text("SELECT ispopulated FROM pg_matviews WHERE schemaname = 'public' AND matviewname = :view")
_REFRESH = sql.SQL("REFRESH MATERIALIZED VIEW {}")
_REFRESH_CONCURRENTLY = sql.SQL("REFRESH MATERIALIZED VIEW CONCURRENTLY {}")


class UnknownViewError(LoggableError, ValueError):
    """The view may not be refreshed, or does not exist in the database. Permanent."""


class ViewRefresh(BaseModel):
    """The outcome for one view, `refreshed` or `skipped: already running`, and how long it took."""

    view: str
    status: str
    concurrently: bool = False
    seconds: float = 0.0


def choose(view: str | None, allowed: Collection[str]) -> list[str]:
    """The views to refresh: `view`, or all allowed ones in the order of their names.

    Raises:
        UnknownViewError: `view` is not allowed. The message does not repeat it.
    """
    names = sorted(allowed)
    if view is None:
        return names
    if view not in names:  # a list, because a sender's value need not be hashable
        raise UnknownViewError(f"view must be one of MAINTENANCE_VIEWS: {', '.join(names) or 'it is empty'}")
    return [view]


def refresh(engine: Engine, view: str) -> ViewRefresh:
    """Refresh `public.view` in its own transaction, without blocking its readers.

    The view needs a unique index on plain columns. A view that was never populated is refreshed without CONCURRENTLY,
    as PostgreSQL requires. While another session refreshes the same view, it is skipped.

    Raises:
        UnknownViewError: the database has no such materialized view.
        sqlalchemy.exc.DBAPIError: the role does not own it, another session kept it locked, and similar errors.
    """
    begun = time.monotonic()
    with engine.begin() as connection:
        if not try_transaction_lock(connection, f"app.maintenance:refresh:{view}"):
            return ViewRefresh(view=view, status=SKIPPED)
        populated = connection.execute(_POPULATED, {"view": view}).scalar_one_or_none()
        if populated is None:
            raise UnknownViewError(
                f"MAINTENANCE_VIEWS names {view}, but the schema public has no such materialized view"
            )
        set_lock_timeout(connection, LOCK_TIMEOUT_MS)
        connection.execute(_SAY_WHICH, {"view": view})
        _run(connection, _REFRESH_CONCURRENTLY if populated else _REFRESH, view)
    return ViewRefresh(
        view=view, status="refreshed", concurrently=populated, seconds=round(time.monotonic() - begun, 3)
    )


def _run(connection: Connection, statement: sql.SQL, view: str) -> None:
    composed = statement.format(sql.Identifier("public", view))
    driver: Any = connection.connection.driver_connection
    connection.exec_driver_sql(composed.as_string(driver), execution_options={"no_parameters": True})
