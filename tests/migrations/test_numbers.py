"""Databases that Alembic has made, of every revision that was released, become the package's numbered schema."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.dsn import PostgresDSN
from celery_postgres.database.migrations import NEWEST, check, migrate, version
from environment.sources import CHECKOUT
from environment.testkit.catalogue import catalogue, difference
from environment.testkit.databases import allow_stock, rows, run, stock_consume, stock_publish

#: The numbers that Alembic's revisions record.
NUMBERS = {
    "202611292300": 8,
    "202611300300": 9,
    "202611300330": 10,
    "202611301030": 11,
    "202611301130": 12,
    "202611301330": 13,
    "202611301340": 14,
    "202611301345": 15,
    "202611301355": 16,
    "202611301430": 17,
    "202611301435": 18,
    "202611301440": 19,
    "202611301730": 20,
    "202611301900": 21,
    "202611301930": 22,
    "202611302200": 23,
}
ROWS = (
    "INSERT INTO kombu_dead_letter (message_id, failures, reason, payload) VALUES (7, 1, 'r', 'p')",
    "INSERT INTO celery_chord (id, size) VALUES ('chord', 3)",
    "INSERT INTO celery_taskmeta (id, task_id, status) VALUES (nextval('task_id_sequence'), 'before', 'SUCCESS')",
)
KEPT = """
    SELECT (SELECT count(*) FROM kombu_dead_letter), (SELECT count(*) FROM celery_chord),
        (SELECT count(*) FROM celery_taskmeta)
"""


@pytest.fixture
def whole(plain_database: Any) -> dict[str, Any]:
    return catalogue(plain_database.url)


def without_grants(found: dict[str, Any]) -> dict[str, Any]:
    """Alembic grants what is made to app_user, if that is another role."""
    return found | {"functions": [entry[:4] for entry in found["functions"]]}


@pytest.mark.parametrize(
    "revision",
    ["202512171200", "202611291900", *NUMBERS],
)
@pytest.mark.parametrize("by", ["alembic", "the command"])
def test_every_revision_is_adopted_with_its_rows(
    empty_database: Any, whole: dict[str, Any], alembic: Any, revision: str, by: str
) -> None:
    url = empty_database.url
    alembic("upgrade", url, revision)
    stock_publish(url, "kept")
    run(url, *ROWS)
    assert version(PostgresDSN.parse(url).libpq()) == NUMBERS.get(revision)
    if by == "alembic":
        alembic("upgrade", url, "head")
    else:
        migrate(PostgresDSN.parse(url).libpq())
    assert difference(without_grants(catalogue(url)), without_grants(whole)) == []
    assert check(PostgresDSN.parse(url).libpq()).current
    assert rows(url, KEPT) == [(1, 1, 1)]
    alembic("upgrade", url, "head")
    allow_stock(url)
    assert stock_consume(url, 1) == ["kept"]


def test_the_record_goes_with_its_revision(empty_database: Any, alembic: Any) -> None:
    url = empty_database.url
    alembic("upgrade", url, "head")
    migrate(PostgresDSN.parse(url).libpq(), 6)
    alembic("downgrade", url, "202611291900")
    assert version(PostgresDSN.parse(url).libpq()) is None
    alembic("upgrade", url, "head")
    assert version(PostgresDSN.parse(url).libpq()) == NEWEST


def test_a_schema_that_a_newer_release_has_migrated_is_not_taken_back(empty_database: Any, alembic: Any) -> None:
    url = empty_database.url
    alembic("upgrade", url, "head")
    run(
        url,
        f"INSERT INTO celery_postgres_migration VALUES ({NEWEST + 1}, 'of_the_future', 'x', now())",  # noqa: S608
        "UPDATE alembic_version SET version_num = '202611291900'",
    )
    alembic("upgrade", url, "head")
    assert version(PostgresDSN.parse(url).libpq()) == NEWEST + 1


def test_no_revision_depends_on_a_file_of_the_package() -> None:
    imported = [
        path.name
        for path in (CHECKOUT / "alembic/versions").glob("*/*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(("from celery_postgres", "import celery_postgres"))
    ]
    assert imported == []
