"""Values reach SQL as parameters and in no other way: every statement of the project, in files and in code.

The driver fills placeholders in without looking where they stand, so none may stand in a comment or within quotes; and
a place where a statement is put together is listed here, with what is put in, or it fails.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_postgres.database.lexer import PLACEHOLDER, is_single, misplaced, pieces, uncommented
from celery_postgres.database.migrations import migrations
from celery_postgres.database.statements import load
from environment.sources import CHECKOUT

FOLDERS = ("alembic", "backend", "environment", "nix", "ops", "packages/celery-postgres/src")
FILES = [path for folder in FOLDERS for path in sorted((CHECKOUT / folder).rglob("*.sql"))]
TREES = {
    str(path.relative_to(CHECKOUT)): ast.parse(path.read_text(encoding="utf-8"))
    for folder in FOLDERS
    for path in sorted((CHECKOUT / folder).rglob("*.py"))
    if "testkit" not in path.parts  # part of the tests, whose statements are their own
}
#: What takes a statement as its first argument: of psycopg2, SQLAlchemy, asyncpg and our own sessions.
EXECUTING = {"execute", "executemany", "exec_driver_sql", "mogrify", "script"}
#: Text that begins a statement.
SQL = re.compile(
    r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|SET|RESET|LISTEN|NOTIFY|PREPARE|EXECUTE|DEALLOCATE|BEGIN|COMMIT"
    r"|ALTER|CREATE|DROP|GRANT|REVOKE|LOCK|TRUNCATE|COPY|CALL|DO|EXPLAIN)\b"
)
#: Where text is put into a statement, and what.
DECIDED = {
    "f'DROP INDEX CONCURRENTLY {step.index}'": "a name in a migration",
    "f'SELECT ({step.unless})'": "a condition in a migration",
    "f'SELECT NOT EXISTS (SELECT FROM {table})'": "a name in a migration",
    "f\"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'; {sql}\"": "a number, and a step of a migration",
    "f\"SET lock_timeout = '{INDEX_TIMEOUT_S}s'\"": "a number",
    "f'LISTEN {channel}'": "a name of our own and a number",
    "f'UNLISTEN celery_postgres_{word}'": "a word that was drawn",
    "f\"NOTIFY celery_postgres_{word}, '{word}'\"": "a word that was drawn",
    "f'DEALLOCATE {name}'": "the name of a statement in a file of our own",
    "f'PREPARE {name}{types} AS {prepared}'": "a statement in a file of our own",
    "f'EXECUTE {name}{values}'": "a name of our own, and placeholders",
    "'SELECT pg_backend_pid(), host(inet_client_addr()), inet_client_port(), ' + "
    "', '.join(['set_config(%s, %s, pg_backend_pid() <> %s)'] * len(wanted))": "placeholders",
    "'SELECT ' + ', '.join(['set_config(%s, %s, true)'] * len(settings)) + '; '": "placeholders",
    "self._bring_along + statement.direct": "placeholders that were filled in, and those of a file of our own",
    "f'\\n        GRANT USAGE ON SEQUENCE public.{name} TO app_user;'": "a name in a migration",
}
#: Modules that execute what a variable holds, and where that comes from.
VARIABLE = {
    "alembic/versions/006_celery_foundation/202512120900_celery_tables.py": "SQLAlchemy's DDL of tables in the module",
    "backend/app/db/scripts.py": "files beside a migration",
    "backend/app/db/upkeep.py": "SQLAlchemy's expressions",
    "backend/app/db/views.py": "psycopg2.sql, which quotes the view's name",
    "packages/celery-postgres/src/celery_postgres/database/borrowed.py": "the statements of files",
    "packages/celery-postgres/src/celery_postgres/database/callers_asyncpg.py": "the statements of files",
    "packages/celery-postgres/src/celery_postgres/database/callers_connection.py": "the statements of files",
    "packages/celery-postgres/src/celery_postgres/database/callers_django.py": "the statements of files",
    "packages/celery-postgres/src/celery_postgres/database/callers_psycopg.py": "the statements of files",
    "packages/celery-postgres/src/celery_postgres/database/callers_psycopg2.py": "the statements of files",
    "packages/celery-postgres/src/celery_postgres/database/callers_sqlalchemy.py": "the statements of files",
    "packages/celery-postgres/src/celery_postgres/database/migrations/executing.py": "files",
    "packages/celery-postgres/src/celery_postgres/database/rights.py": "the roles, or the file of an administrator",
    "packages/celery-postgres/src/celery_postgres/database/server.py": "literals of the module",
    "packages/celery-postgres/src/celery_postgres/database/session.py": "the statements of files",
    "environment/provision.py": "psycopg2.sql, which quotes names and the password",
}


def executed(tree: ast.Module) -> Iterator[ast.expr]:
    """What is executed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
            # Also a function of the broker's is called `text`: it makes text for a column.
            is_text = isinstance(node.func, ast.Name) and name == "text" and is_sqlalchemys(tree)
            if name in EXECUTING or is_text:
                yield node.args[0]


def is_sqlalchemys(tree: ast.Module) -> bool:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy"]
    return any(name.name == "text" for node in imports for name in node.names)


def written(tree: ast.Module) -> Iterator[ast.expr]:
    """Literals and sums that look like a statement, wherever they stand."""
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.JoinedStr | ast.Constant) and id(node) not in inner:
            if SQL.match(beginning(node)):
                yield node
            inner |= {id(below) for below in ast.walk(node)}
        is_formatted = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("format", "replace")
        if is_formatted and SQL.match(beginning(node.func.value)):  # type: ignore[attr-defined]
            yield node  # type: ignore[misc]


def beginning(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return beginning(node.values[0]) if node.values else ""
    return beginning(node.left) if isinstance(node, ast.BinOp) else ""


def is_literal(node: ast.expr, constants: set[str]) -> bool:
    """Whether nothing is put into it: a literal, a constant of its module, or a sum of those."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add) and is_literal(node.left, constants) and is_literal(node.right, constants)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "text":
        return is_literal(node.args[0], constants)
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in constants)


def constants_of(tree: ast.Module) -> set[str]:
    """Names that the module assigns once, at its top, in capitals."""
    assigned = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    assigned += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return {one.id for one in assigned if isinstance(one, ast.Name) and one.id.isupper()}


# -- what there is


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_file_has_a_placeholder_where_no_value_belongs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"--.*%\(\w+\)s", text) == []
    named = [one for one in misplaced(text) if one.startswith("%(")]
    assert named == []


@pytest.mark.parametrize("path", [one for one in FILES if "-- name: " in one.read_text()], ids=lambda path: path.name)
def test_what_is_sent_of_a_file_is_one_statement_without_a_comment(path: Path) -> None:
    for one in load(path).values():
        for form in (one.prepare, one.execute, one.direct):
            assert is_single(form), one.name
            assert misplaced(form) == [], one.name
        assert {found[0] for found in PLACEHOLDER.finditer(one.direct) if found[0].startswith("%")} == {
            f"%({name})s" for name in one.parameters
        }, one.name


def test_no_step_of_a_migration_has_a_comment_when_it_is_sent() -> None:
    steps = [step for migration in migrations() for step in (*migration.up, *migration.down)]
    assert len(steps) > 50
    for step in steps:
        assert [text for kind, text in pieces(step.sql) if kind == "comment"] == [], step.what


def test_no_statement_in_code_has_a_placeholder_in_a_comment_or_quotes() -> None:
    looked_at = 0
    for path, tree in TREES.items():
        for node in {*written(tree), *executed(tree)}:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "$$" not in node.value:
                looked_at += 1
                assert misplaced(node.value) == [], f"{path}:{node.lineno}"
    assert looked_at > 50


def test_every_place_where_text_is_put_into_a_statement_is_known() -> None:
    put_together = set()
    for tree in TREES.values():
        constants = constants_of(tree)
        kinds = ast.JoinedStr | ast.BinOp | ast.Call
        statements = {*written(tree), *executed(tree)}
        put_together |= {
            ast.unparse(node)
            for node in statements
            if isinstance(node, kinds) and not is_literal(node, constants) and not has_own_class(node)
        }
    assert put_together == set(DECIDED)


def has_own_class(node: ast.expr) -> bool:
    """A call that gives no text which it was given: `CreateTable(table)`, `statement.format(sql.Identifier(role))`."""
    return isinstance(node, ast.Call) and not SQL.match(beginning(getattr(node.func, "value", node)))


def test_every_module_that_executes_a_variable_is_known() -> None:
    found = {
        path
        for path, tree in TREES.items()
        for node in executed(tree)
        if not is_literal(node, constants_of(tree)) and not isinstance(node, ast.JoinedStr)
    }
    assert found == set(VARIABLE)


# -- the scanner


@pytest.mark.parametrize(
    ("sql", "kept"),
    [
        ("SELECT 1 -- a %(name)s\n+ 2", "SELECT 1 \n+ 2"),
        ("SELECT 1 -- to the end %(name)s", "SELECT 1"),
        ("SELECT /* a /* nested %s */ one */ 1", "SELECT   1"),
        ("SELECT '-- text', 'it''s /* text'", "SELECT '-- text', 'it''s /* text'"),
        (r"SELECT E'\' -- text', 1 -- gone", r"SELECT E'\' -- text', 1"),
        (r"SELECT '\' -- gone", r"SELECT '\'"),
        ('SELECT "a -- name""s" -- gone', 'SELECT "a -- name""s"'),
        ("DO $$ BEGIN -- stays\nEND $$", "DO $$ BEGIN -- stays\nEND $$"),
        ("DO $a$ $$ -- stays $a$ -- gone", "DO $a$ $$ -- stays $a$"),
        ("SELECT $1 -- gone $2", "SELECT $1"),
        ("SELECT a$b$c -- gone $b$", "SELECT a$b$c"),
    ],
)
def test_comments_go_and_quoted_text_stays(sql: str, kept: str) -> None:
    assert uncommented(sql) == kept


@pytest.mark.parametrize(
    "sql", ["SELECT 1; COMMIT", "SELECT 1 -- x", "SELECT 1 /* x */", "SELECT 'x", "SELECT 1;", "SELECT $a$ x"]
)
def test_more_than_one_statement_is_known(sql: str) -> None:
    assert not is_single(sql)
    assert is_single("SELECT ';', \"a;b\", $$;--$$, E'\\';--', '--' WHERE a = 1")


@pytest.mark.parametrize(
    "statement",
    [
        "-- name: wrong\n-- takes: a text\nSELECT '%(a)s'",
        "-- name: wrong\n-- takes: a text\nSELECT $$%(a)s$$",
        '-- name: wrong\n-- takes: a text\nSELECT "%(a)s"',
        "-- name: wrong\nSELECT %(a)s",
    ],
)
def test_a_file_with_a_misplaced_placeholder_is_not_loaded(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "wrong.sql"
    path.write_text(statement)
    with pytest.raises(ValueError, match="the statement wrong "):
        load(path)
