"""The fragments that the named statements share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from celery_postgres.database import statements as loader

SQL = Path(loader.__file__).parent / "sql"


def test_an_include_becomes_the_fragment_with_the_indentation_of_its_line() -> None:
    known = {"columns": "a,\nb\n\n", "insert": "INSERT (\n    -- include: columns\n)\n"}
    text = "WITH new AS (\n    -- include: insert\n    SELECT 1\n)\n"
    expected = "WITH new AS (\n    INSERT (\n        a,\n        b\n    )\n    SELECT 1\n)\n"
    assert loader.included(text, known) == expected


def test_an_include_may_be_the_last_line() -> None:
    assert loader.included("SELECT\n-- include: one", {"one": "1"}) == "SELECT\n1\n"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("-- include: missing", {}),
        ("-- include: itself", {"itself": "-- include: itself"}),
        ("-- include: first", {"first": "-- include: second", "second": "-- include: first"}),
    ],
)
def test_a_fragment_that_does_not_exist_or_includes_itself_is_refused(text: str, known: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="there is no fragment"):
        loader.included(text, known)


def test_every_fragment_is_included_somewhere() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in SQL.glob("*.sql"))
    assert set(re.findall(r"^ *-- include: (\w+)$", texts, flags=re.MULTILINE)) == set(loader.fragments())


@pytest.mark.parametrize("table", ["kombu_message", "kombu_dead_letter"])
def test_one_fragment_inserts_into_the_tables_of_messages(table: str) -> None:
    """A new column is added in one place, and no statement forgets it. A move keeps all columns of a message, and
    tests/broker/test_move.py compares those with the table."""
    inserts = [
        path.name
        for path in sorted(SQL.glob("*.sql"))
        for _ in re.finditer(rf"INSERT INTO {table}\b(?!.* WHERE false)", path.read_text(encoding="utf-8"))
    ]
    assert inserts == ["fragments.sql", *(["moving.sql"] if table == "kombu_message" else [])]
    assert sum(f"INSERT INTO {table}" in one.direct for one in loader.statements().values()) > 3


def test_no_include_is_left_in_a_statement() -> None:
    for statement in loader.statements().values():
        assert "include:" not in statement.direct + statement.prepare, statement.name
