"""One database URL in all the forms people write: what each component gets, and what the errors say."""

from __future__ import annotations

import pytest
from kombu import Connection
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from app.celery_app import _build_broker_url, _build_result_backend
from app.core.dsn import DatabaseURLError, PostgresDSN
from app.core.settings import Settings

AWKWARD = "p@:/%?#;&= ü"
AWKWARD_QUOTED = "p%40%3A%2F%25%3F%23%3B%26%3D%20%C3%BC"

FORMS = [
    # what is written, what psycopg2 must be called with
    ("postgres://u:p@h/db", {"user": "u", "password": "p", "host": "h", "dbname": "db"}),
    ("postgresql://u:p@h:5433/db", {"user": "u", "password": "p", "host": "h", "port": 5433, "dbname": "db"}),
    ("postgresql+asyncpg://u:p@h/db", {"user": "u", "password": "p", "host": "h", "dbname": "db"}),
    ("postgresql+psycopg2://u:p@h/db", {"user": "u", "password": "p", "host": "h", "dbname": "db"}),
    ("postgresql+psycopg://u:p@h/db", {"user": "u", "password": "p", "host": "h", "dbname": "db"}),
    (
        f"postgresql+asyncpg://u:{AWKWARD_QUOTED}@h/db",
        {"user": "u", "password": AWKWARD, "host": "h", "dbname": "db"},
    ),
    ("postgresql://u%40corp@h/db", {"user": "u@corp", "host": "h", "dbname": "db"}),
    ("postgresql://u@h/my%20db", {"user": "u", "host": "h", "dbname": "my db"}),
    ("postgresql://u@/db?host=/run/pg", {"user": "u", "host": "/run/pg", "dbname": "db"}),
    ("postgresql://u@%2Frun%2Fpg:5433/db", {"user": "u", "host": "/run/pg", "port": "5433", "dbname": "db"}),
    ("postgresql://u:p@[::1]:5433/db", {"user": "u", "password": "p", "host": "::1", "port": 5433, "dbname": "db"}),
    ("postgresql:///db?port=5433", {"port": "5433", "dbname": "db"}),
    ("postgresql:///db", {"dbname": "db"}),
    # libpq: a parameter wins over what stands before it
    (
        "postgresql://u:p@localhost/db?host=/cloudsql/x",
        {"user": "u", "password": "p", "host": "/cloudsql/x", "dbname": "db"},
    ),
    (
        "postgresql://u:p@h:1/db?port=2&user=v&dbname=e",
        {"user": "v", "password": "p", "host": "h", "port": 2, "dbname": "e"},
    ),
    (
        "postgresql://u:p@h1,h2/db?port=5433",
        {"user": "u", "password": "p", "host": "h1,h2", "port": "5433,5433", "dbname": "db"},
    ),
    (
        "postgresql://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write",
        {
            "user": "u",
            "password": "p",
            "host": "h1,h2",
            "port": "5432,5433",
            "dbname": "db",
            "target_session_attrs": "read-write",
        },
    ),
    (
        "postgresql://u:p@/db?host=h1,h2&port=5432,5433",
        {"user": "u", "password": "p", "host": "h1,h2", "port": "5432,5433", "dbname": "db"},
    ),
    (
        "postgresql://u:p@/db?host=h1:5432&host=h2:5433",
        {"user": "u", "password": "p", "host": "h1,h2", "port": "5432,5433", "dbname": "db"},
    ),
    (
        "postgresql://u:p@h/db?sslmode=verify-full&sslrootcert=/ca.pem&application_name=a%20b",
        {
            "user": "u",
            "password": "p",
            "host": "h",
            "dbname": "db",
            "sslmode": "verify-full",
            "sslrootcert": "/ca.pem",
            "application_name": "a b",
        },
    ),
    (
        "postgresql+asyncpg://u:p@h/db?ssl=require",
        {"user": "u", "password": "p", "host": "h", "dbname": "db", "sslmode": "require"},
    ),
    (
        "postgresql+asyncpg://u:p@h/db?ssl=false&prepared_statement_cache_size=0",
        {"user": "u", "password": "p", "host": "h", "dbname": "db", "sslmode": "disable"},
    ),
    (
        "postgresql://u@h/db?options=-c%20statement_timeout%3D5s%20-c%20search_path%3Dpublic",
        {"user": "u", "host": "h", "dbname": "db", "options": "-c statement_timeout=5s -c search_path=public"},
    ),
]


def settings(url: str) -> Settings:
    return Settings(database_url=url, _env_file=None)


@pytest.mark.parametrize(("written", "called_with"), FORMS, ids=[form[0][:40] for form in FORMS])
def test_each_form_reaches_the_driver_whole(written: str, called_with: dict[str, object]) -> None:
    for built, prefix in (
        (_build_broker_url(settings(written)), "sqla+"),
        (_build_result_backend(settings(written)), "db+"),
    ):
        assert built.startswith(prefix + "postgresql://")
        _, given = PGDialect_psycopg2().create_connect_args(make_url(built.removeprefix(prefix)))
        assert given == called_with


@pytest.mark.parametrize("written", [form[0] for form in FORMS])
def test_kombu_can_name_each_form_without_its_password(written: str) -> None:
    with Connection(_build_broker_url(settings(written))) as connection:
        shown = connection.as_uri()
    assert shown.startswith("sqla+postgresql://")
    assert AWKWARD_QUOTED not in shown
    assert ":p@" not in shown


@pytest.mark.parametrize("written", [form[0] for form in FORMS])
def test_libpq_understands_what_we_write(written: str) -> None:
    dsn = PostgresDSN.parse(written)
    assert PostgresDSN.parse(dsn.url()) == dsn
    assert "dbname=" in dsn.libpq()


def test_a_description_has_no_credentials() -> None:
    dsn = PostgresDSN.parse("postgresql://someone:secret@h1:1,h2:2/db")
    assert dsn.describe() == "h1:1,h2:2/db"
    assert "secret" not in repr(dsn)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("redis://:hunter2@localhost:6379/0", "not redis://"),
        ("rediss://:hunter2@localhost:6379/0", "not rediss://"),
        ("amqp://u:hunter2@localhost//", "not amqp://"),
        ("sqlite:///hunter2.db", "not sqlite://"),
        ("mysql+pymysql://u:hunter2@h/db", "must be a PostgreSQL URL"),
        ("sqla+postgresql://u:hunter2@h/db", "must be a PostgreSQL URL"),
        ("hunter2", "must be a PostgreSQL URL"),
        ("://hunter2", "must be a PostgreSQL URL"),
        ("postgresql://u:hunter2@h", "names no database"),
        ("postgresql://u:hunter2@h/", "names no database"),
        ("postgresql://u:hun@ter2@h/db", "percent-encode"),
        ("postgresql://u:hunter2#@h/db", "percent-encode"),
        ("postgresql://u:hun/ter2@h/db", "percent-encode|%2F"),
        ("postgresql://u:hunter2?@h/db", "%3F"),
        ("postgresql://u:12/x?hunter2=1@h/db", "percent-encode"),
        ("postgresql://u:12?hunter2=1@h/db", "percent-encode"),
        ("postgresql://u:hunter2@h:99999/db", "port"),
        ("postgresql://u:hunter2@/db?host=a,b&port=1,2,3", "one for each host"),
        ("postgresql://u:hunter2@h/db?nonsense=1", "'nonsense'"),
        ("postgresql://u:hunter2@h/db?sslmode=yes", "sslmode must be one of"),
        ("postgresql://u:hunter2@h/db?sslmode=disable&ssl=require", "contradict"),
        ("postgresql://u:hunter2%00@h/db", "NUL"),
    ],
)
def test_a_wrong_url_gets_one_clear_line_without_its_password(written: str, says: str) -> None:
    with pytest.raises(DatabaseURLError) as caught:
        PostgresDSN.parse(written)
    message = str(caught.value)
    assert any(word in message for word in says.split("|")), message
    assert "hunter2" not in message
    assert "ter2" not in message
    assert "\n" not in message
