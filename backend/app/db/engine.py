"""The shared SQLAlchemy engine: one per process, with the tenant of the running task on every transaction."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.pool import PoolResetState

from app.core.context import tenant_id_var
from app.core.settings import Settings, get_settings
from app.db.tenancy import TENANT_GUC
from app.db.transient import READ_ONLY
from celery_postgres.dsn import keepalive_parameters

_lock = threading.Lock()
_engine: Engine | None = None


def get_engine() -> Engine:
    """The engine of this process, created at first use."""
    global _engine
    with _lock:
        if _engine is None:
            _engine = build_engine(get_settings())
        return _engine


def dispose_engine() -> None:
    """Close the connections of this process; the next use connects again."""
    global _engine
    with _lock:
        if _engine is not None:
            _engine.dispose()
        _engine = None


def patience(settings: Settings) -> dict[str, Any]:
    """libpq parameters, for `connect_args`, that limit how long a server that does not answer is waited for."""
    return {**keepalive_parameters(settings.dsn.libpq()), "connect_timeout": settings.database_connect_timeout}


def build_engine(settings: Settings, **options: Any) -> Engine:
    """Create an engine on `settings.dsn` whose transactions carry the tenant of the running task.

    - Each transaction that begins while `tenant_id_var` is set belongs to that tenant (transaction-local).
    - A connection that returns to the pool is reset: no tenant, setting, temporary table or lock of one task reaches
      the next.
    - Its errors never contain the parameters of statements.
    - If the network is lost, a statement ends after some 10 s.
    - Connections that may not write are not kept: they would stay read-only when the database takes writes again.
    """
    arguments: dict[str, Any] = {
        "connect_args": {
            **patience(settings),
            "fallback_application_name": settings.service_name,
        },
        "hide_parameters": True,
        "max_overflow": 0,
        "pool_pre_ping": True,
        "pool_reset_on_return": None,  # _begin_anew rolls back
        "pool_size": settings.database_pool_size,
    }
    engine = create_engine(settings.dsn.url(), **(arguments | options))
    event.listen(engine, "begin", _carry_tenant)
    event.listen(engine, "reset", _begin_anew)
    event.listen(engine, "handle_error", _lose_read_only)
    return engine


def _carry_tenant(connection: Connection) -> None:
    tenant_id = tenant_id_var.get()
    if tenant_id is None:
        return
    # SQLAlchemy calls this before the connection knows that its transaction has begun. A statement through the
    # connection would begin another one and recurse. The driver's cursor is inside the transaction that psycopg2 opens
    # with its first statement.
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute("SELECT set_config(%s, %s, true)", (TENANT_GUC, str(tenant_id)))


def _lose_read_only(context: ExceptionContext) -> None:
    if getattr(context.original_exception, "pgcode", None) == READ_ONLY:
        context.is_disconnect = True


def _begin_anew(dbapi_connection: Any, _record: Any, state: PoolResetState) -> None:
    if state.terminate_only:
        return
    # A rollback alone leaves what a task did to its session: SET, SET ROLE, temporary tables, LISTEN, session locks.
    # The driver's reset rolls back, sends DISCARD ALL, and resets its own settings too (autocommit, isolation,
    # encoding). It always runs, because a task may have sent any statement. Two round trips at most, 30 µs on a socket.
    dbapi_connection.reset()


def _forget_engine_in_child() -> None:
    """Forget the engine in a forked child, which must not use its parent's sockets: it leaves them and reconnects."""
    global _engine, _lock
    _lock = threading.Lock()
    if _engine is not None:
        _engine.dispose(close=False)
    _engine = None


os.register_at_fork(after_in_child=_forget_engine_in_child)
