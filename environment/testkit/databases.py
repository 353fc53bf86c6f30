"""Databases: statements without a pool, what stock Celery does on one, and the shape of its tables.

Statements need the driver alone. An engine, and all that stock Celery does, needs SQLAlchemy: a test that asks for them
is skipped where the package is tested without it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from celery import Celery
from kombu import Connection
from psycopg2.extras import register_uuid

from app.core.dsn import PostgresDSN
from celery_postgres import migrate

if TYPE_CHECKING:
    from celery.backends.database import DatabaseBackend
    from sqlalchemy import Engine

CELERY_TABLES = {"kombu_queue", "kombu_message", "celery_taskmeta", "celery_tasksetmeta"}

COLUMNS = """
    SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
           pg_get_expr(d.adbin, d.adrelid), a.attstorage, a.attcollation::regcollation::text,
           a.attcompression
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(:tables)
    ORDER BY 1, 2
"""
CONSTRAINTS = """
    SELECT c.relname, k.conname, k.contype, pg_get_constraintdef(k.oid)
    FROM pg_class AS c JOIN pg_constraint AS k ON k.conrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(:tables)
      AND k.contype <> 'n'  -- PostgreSQL 18 lists NOT NULL here as well as in pg_attribute
    ORDER BY 1, 2
"""
INDEXES = (
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY(:tables) ORDER BY 1"
)
SEQUENCES = """
    SELECT s.sequencename, s.data_type::text, s.start_value, s.min_value, s.max_value, s.increment_by, s.cycle,
           s.cache_size, (SELECT count(*) FROM pg_depend AS d
                          WHERE d.objid = format('public.%I', s.sequencename)::regclass AND d.deptype IN ('a', 'i'))
    FROM pg_sequences AS s
    WHERE s.schemaname = 'public' AND s.sequencename ~ '^(task|taskset|message|queue)_id_sequence$'
    ORDER BY 1
"""


def need_sqlalchemy() -> None:
    """Skip the test that calls this where SQLAlchemy is not installed."""
    pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy, which is not installed here")


def engine_of(url: str) -> Engine:
    """An engine without a pool, so that a database can be dropped at any time."""
    need_sqlalchemy()
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    return create_engine(_psycopg2_url(url), poolclass=NullPool)


def run(url: str, *statements: str) -> None:
    """Execute statements, each in a transaction of its own."""
    with _cursor(url, autocommit=True) as cursor:
        for statement in statements:
            cursor.execute(statement)


def rows(url: str, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of one statement, which is rolled back. Its parameters are written ``:name``."""
    escaped = re.sub(r"(?<![:\w]):([a-z_]\w*)", r"%(\1)s", statement.replace("%", "%%"))
    with _cursor(url) as cursor:
        cursor.execute(escaped, parameters)
        return list(cursor.fetchall())


@contextmanager
def _cursor(url: str, *, autocommit: bool = False) -> Iterator[Any]:
    with closing(psycopg2.connect(PostgresDSN.parse(url).libpq())) as connection:
        connection.autocommit = autocommit
        register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
        with connection.cursor() as cursor:
            yield cursor


def tables(url: str) -> set[str]:
    """The tables in the schema public, without Alembic's own."""
    names = {name for (name,) in rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    return names - {"alembic_version"}


def as_role(url: str, role: str) -> str:
    return dataclasses.replace(PostgresDSN.parse(url), user=role, password=None).url()


def shape(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything about Celery's and Kombu's tables that PostgreSQL would dump, but the comments."""
    names = sorted(CELERY_TABLES)
    return {
        "columns": rows(url, COLUMNS, tables=names),
        "constraints": rows(url, CONSTRAINTS, tables=names),
        "indexes": rows(url, INDEXES, tables=names),
        "sequences": rows(url, SEQUENCES),
    }


def stock_create_all(url: str) -> None:
    """Let stock Kombu and Celery make their tables, as they do when they find none."""
    with _broker(url) as broker:
        _ = broker.channel().session
    _forget(url)
    from celery.backends.database.models import ResultModelBase

    ResultModelBase.metadata.create_all(engine_of(url))


def allow_stock(url: str) -> None:
    """Let stock's consumers take messages, as ``migrate --allow-stock`` does."""
    migrate(PostgresDSN.parse(url).libpq(), allow_stock=True)


def stock_publish(url: str, *messages: str, queue: str = "stock") -> None:
    with _broker(url) as broker:
        simple = broker.SimpleQueue(queue)
        for message in messages:
            simple.put(message)
        simple.close()
    _forget(url)


def stock_consume(url: str, count: int, queue: str = "stock") -> list[str]:
    with _broker(url) as broker:
        simple = broker.SimpleQueue(queue)
        taken = []
        for _ in range(count):
            message = simple.get_nowait()
            message.ack()
            taken.append(message.payload)
        simple.close()
    _forget(url)
    return taken


def stock_results(url: str) -> DatabaseBackend:
    """Stock's result backend, with the extended columns in use."""
    need_sqlalchemy()
    from celery.backends.database import DatabaseBackend
    from sqlalchemy.pool import NullPool

    app = Celery("stock", set_as_current=False)
    app.conf.result_extended = True
    return DatabaseBackend(app=app, dburi=_psycopg2_url(url), engine_options={"poolclass": NullPool})


def _broker(url: str) -> Connection:
    need_sqlalchemy()
    # By its full name: the alias may mean our own transport by now.
    # Without the driver's name: Kombu would take what is before it for the transport.
    return Connection(PostgresDSN.parse(url).url(), transport="kombu.transport.sqlalchemy:Transport")


def _psycopg2_url(url: str) -> str:
    """The driver is named: from SQLAlchemy 2.1 on a plain postgresql:// means psycopg 3."""
    return PostgresDSN.parse(url).url().replace("postgresql://", "postgresql+psycopg2://", 1)


def _forget(url: str) -> None:
    """Kombu keeps its engines forever."""
    from kombu.transport.sqlalchemy import Channel

    engine, _ = Channel._engines.pop(PostgresDSN.parse(url).url())
    engine.dispose()
