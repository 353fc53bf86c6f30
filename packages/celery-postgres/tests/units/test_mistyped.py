"""Addresses with a typing error in the scheme: one line if they were meant for this package."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery import Celery
from celery.app.backends import BACKEND_ALIASES
from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES

from celery_postgres.database.mistyped import verify
from celery_postgres.errors import AddressError

WRITE = r"write postgresql://…$"


@pytest.fixture(autouse=True)
def _installed(installed: None) -> None:
    """This process has called ``install()``."""


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgrse://u:geheim@h/d", f"the broker URL begins with postgrse://, which no broker has: {WRITE}"),
        ("postgress://u:geheim@h/d", WRITE),
        ("postgresq://u:geheim@h/d", WRITE),
        ("PostgreSLQ://u:geheim@h/d", WRITE),
        ("pgsql://u:geheim@h/d", WRITE),
        ("pg://u:geheim@h/d", WRITE),
        ("postgresql+psycopg3://u:geheim@h/d", WRITE),
        ("postgres+pg8000://u:geheim@h/d", WRITE),
        ("postgrse+psycopg2://u:geheim@h/d", WRITE),
        ("db+postgresql://u:geheim@h/d", WRITE),
        ("sqlal+postgresql://u:geheim@h/d", WRITE),
        ("sqla+postgrse://u:geheim@h/d", r"write sqla\+postgresql://…$"),
        ("sqla+postgresql+psycopg3://u:geheim@h/d", r"write sqla\+postgresql://…$"),
        ("sqla+postgres//u:geheim@h/d", "has no :// after its scheme: write postgresql://user:password@host/database"),
        ("postgresql//u:geheim@h/d", "has no ://"),
        ("postgresql:/u:geheim@h/d", "has no ://"),
        ("postgresql//u:ge://heim@h/d", "has no ://"),
    ],
)
def test_what_was_meant_for_us_is_one_line(url: str, line: str) -> None:
    with pytest.raises(AddressError, match=line) as refusal:
        Connection(url)
    assert "heim" not in str(refusal.value)
    with pytest.raises(AddressError, match=line):
        Connection(f"amqp://h;{url}")
    with pytest.raises(AddressError, match=line):
        Connection(["amqp://h", url])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h/d",
        "sqla+postgresql+psycopg2://h/d",
        "sqla+sqlite:///x",
        "sqla+mysql://h/d",
        "amqp://postgres/h",
        "memory://",
        "postgres",
        "postgres:5672",
        "localhost",
    ],
)
def test_what_another_transport_reads_is_left_to_it(url: str) -> None:
    connection = Connection(url)
    assert connection.clone().as_uri() == connection.as_uri()


@pytest.mark.parametrize("scheme", ["nosuch", "ampq", "mysql", "rediss3", "sqlite"])
def test_other_unknown_schemes_get_kombus_own_words(scheme: str) -> None:
    with pytest.raises(KeyError, match=f"No such transport: {scheme}"):
        Connection(f"{scheme}://h")


@pytest.mark.parametrize("known", [{*TRANSPORT_ALIASES, "postgress"}, None])
def test_a_scheme_that_somebody_else_has_registered_is_theirs(known: set[str] | None) -> None:
    verify("postgress://h/d", "broker", known)


def test_a_named_transport_reads_any_address() -> None:
    Connection("postgress://h/d", transport="celery_postgres.broker.transport:Transport")
    Connection("postgress://h/d", None, None, None, None, False, False, "celery_postgres.broker.transport:Transport")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgrse://u:geheim@h/d", f"the result backend URL begins with postgrse://, .* {WRITE}"),
        ("postgresql+psycopg3://u:geheim@h/d", WRITE),
        ("db+postgresql+pg8000://u:geheim@h/d", r"write db\+postgresql://…$"),
        ("db+postgrse://u:geheim@h/d", r"write db\+postgresql://…$"),
        ("sqla+postgresql://u:geheim@h/d", WRITE),
        ("db+postgres//u:geheim@h/d", "has no ://"),
    ],
)
def test_a_result_backend_is_one_line_too(url: str, line: str) -> None:
    app = Celery(set_as_current=False, backend=url)
    with pytest.raises(AddressError, match=line) as refusal:
        _ = app.backend
    assert "geheim" not in str(refusal.value)


def test_other_result_backends_are_celerys_to_find() -> None:
    for url in ("nosuch://h", "mongo://h"):
        with pytest.raises(ImportError):
            _ = Celery(set_as_current=False, backend=url).backend
    assert Celery(set_as_current=False, backend="cache+memory://").backend is not None
    assert "db" in BACKEND_ALIASES
    loader = SimpleNamespace(override_backends={"postgress": "celery.backends.base:DisabledBackend"})
    from celery.app import backends

    assert backends.by_url("postgress://h", loader)[0].__name__ == "DisabledBackend"
