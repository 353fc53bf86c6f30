"""The package's errors: what they are to Celery and Kombu, and what their texts say."""

from __future__ import annotations

import pickle

import psycopg2
import pytest
from kombu.exceptions import EncodeError
from psycopg2 import errors as pg

from celery_postgres import errors
from celery_postgres.database.translating import translate
from celery_postgres.errors import CeleryPostgresError, ReadOnlyError, SchemaError


def raised(sqlstate: str, text: str = "refused") -> psycopg2.Error:
    error = pg.lookup(sqlstate)(text)
    error.__setstate__({"pgcode": sqlstate})
    return error


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SchemaError", Exception),
        ("LeaseLost", psycopg2.OperationalError),
        ("ReadOnlyError", psycopg2.OperationalError),
        ("UnstorableResultError", EncodeError),
        ("NotPublishedError", Exception),
    ],
)
def test_one_base_class_and_what_celery_and_kombu_need(name: str, kind: type[Exception]) -> None:
    error = getattr(errors, name)("a text")
    assert isinstance(error, kind)
    assert isinstance(error, CeleryPostgresError)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  ours
    assert (type(again), str(again)) == (type(error), "a text")


@pytest.mark.parametrize("sqlstate", ["42P01", "42703", "42883", "42P10", "42501"])
def test_a_schema_error_says_what_to_do_with_what_a_user_of_the_package_has(sqlstate: str) -> None:
    error = translate(raised(sqlstate), "sender", "publish")
    assert isinstance(error, SchemaError)
    assert "alembic" not in str(error)
    assert "ops/" not in str(error)
    assert ("grant the role sender" if sqlstate == "42501" else "python -m celery_postgres migrate") in str(error)


def test_a_database_that_takes_no_writes_is_a_lost_connection_and_says_where_to_connect() -> None:
    error = translate(raised("25006", "cannot execute INSERT in a read-only transaction"))
    assert isinstance(error, ReadOnlyError)
    assert error.pgcode == "25006"
    assert "read-only transaction: connect to the primary" in str(error)
