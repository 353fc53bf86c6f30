"""The application uses the package through its public names, and sends no SQL to the package's tables itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import celery_postgres
from celery_postgres.operations import WORKER_TABLES
from environment.sources import CHECKOUT

APPLICATION = CHECKOUT / "backend" / "app"
SOURCES = sorted(APPLICATION.rglob("*.py"))
PACKAGE = "celery_postgres"
#: The modules whose names an application may use; the site's page of the Python API lists them.
PUBLIC = {PACKAGE, *(f"{PACKAGE}.{name}" for name in ("beat", "console", "dsn", "errors", "operations", "readmodel"))}
SQL = re.compile(r"\b(SELECT|FROM|JOIN|INSERT|UPDATE|DELETE|TRUNCATE|LOCK|COPY|has_\w+_privilege)\b")
TABLES = re.compile(rf"\b({'|'.join(WORKER_TABLES)})\b")


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of the package that a module imports, and the names that are not public."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield str(node.module)
            for name in node.names:
                if node.module == PACKAGE and name.name not in celery_postgres.__all__:
                    yield f"{PACKAGE}.{name.name}"


def statements_on_tables(text: str) -> list[str]:
    """The package's tables in a text, if it is SQL."""
    return TABLES.findall(text) if SQL.search(text) else []


def literals(tree: ast.Module) -> Iterator[str]:
    """Every text of a module, its docstrings too."""
    return (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(APPLICATION)))
def test_the_application_imports_public_names_alone(path: Path) -> None:
    assert set(imported(ast.parse(path.read_text(encoding="utf-8")))) - PUBLIC == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(APPLICATION)))
def test_the_application_has_no_sql_on_the_packages_tables(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [table for text in literals(tree) for table in statements_on_tables(text)] == []


def test_no_sql_file_of_the_application_names_them() -> None:
    found = {path: TABLES.findall(path.read_text(encoding="utf-8")) for path in APPLICATION.rglob("*.sql")}
    assert {path: tables for path, tables in found.items() if tables} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import celery_postgres.database.pool", {"celery_postgres.database.pool"}),
        ("from celery_postgres import observer", {"celery_postgres.observer"}),
        ("from celery_postgres.results.serializer import load", {"celery_postgres.results.serializer"}),
        ("from celery_postgres import operations, publishing_on", set()),
    ],
)
def test_what_is_not_public_is_found(source: str, found: set[str]) -> None:
    assert set(imported(ast.parse(source))) - PUBLIC == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("A = 'SELECT id FROM public.kombu_queue'", ["kombu_queue"]),
        ("A = f'DELETE FROM kombu_message WHERE id = {one}'", ["kombu_message"]),
        ("A = 'the role may not read and update kombu_message'", []),
        ("A = 'SELECT 1 FROM task_submission'", []),
    ],
)
def test_sql_on_a_table_is_found(source: str, found: list[str]) -> None:
    assert [table for text in literals(ast.parse(source)) for table in statements_on_tables(text)] == found
