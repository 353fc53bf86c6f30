"""Statements are methods with types: a misspelt name is an error of the type checker, and not of a worker at night."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import celery_postgres
from celery_postgres.database.statements import statements

PACKAGE = Path(celery_postgres.__file__).parent
DATABASE = PACKAGE / "database"
#: Modules outside of the database room that import the driver. To become empty.
STILL_IMPORT_THE_DRIVER = {"errors.py"}

PROGRAM = """
from celery_postgres.database.message_store import ClaimedMessage, MessageStore
from celery_postgres.database.pool import Sessions
from celery_postgres.database.queue_store import QueueStore

sessions = Sessions("")
messages, queues = MessageStore(sessions), QueueStore(sessions)
messages.clame(1, {}, limit=1)
messages.claim(1, {}, limit=1, may_slep=True)
queues.declare("q", auto_delete=False, expires_ms="1000", message_ttl_ms=None)
def column(message: ClaimedMessage) -> None:
    print(message.priorty)
messages.claims(1, limit=1)[0].fence
queues.find("q").id
"""
EXPECTED = (
    '"MessageStore" has no attribute "clame"',
    'Unexpected keyword argument "may_slep"',
    'Argument "expires_ms" to "declare" of "QueueStore" has incompatible type "str"',
    '"ClaimedMessage" has no attribute "priorty"',
    '"tuple[int, int]" has no attribute "fence"',
    'Item "None" of "Queue | None" has no attribute "id"',
)


def test_the_type_checker_finds_a_misspelt_method_argument_and_column(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context"),
            *("--config-file", os.devnull, "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"),
            str(program),
        ],
        env={**os.environ, "MYPYPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert len(lines) == len(EXPECTED), checked.stdout + checked.stderr
    for line, expected in zip(lines, EXPECTED, strict=True):
        assert expected in line


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imported(module: ast.Module) -> set[str]:
    """The packages that a module imports, also for its types alone."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def strings_in(node: ast.expr) -> list[str]:
    """The texts that an argument may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return strings_in(node.body) + strings_in(node.orelse)
    return []


def runs(module: ast.Module) -> Iterator[tuple[str, set[str], bool, int]]:
    """The statements that a module names: name, parameters, whether there may be more parameters, line."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("run", "_run"):
            given = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            more = any(keyword.arg is None for keyword in node.keywords)
            for name in strings_in(node.args[0]) if node.args else ():
                yield name, given, more, node.lineno


def test_only_the_database_room_imports_the_driver() -> None:
    found = {path for path, module in modules() if not path.startswith("database/") and "psycopg2" in imported(module)}
    assert found == STILL_IMPORT_THE_DRIVER


def test_only_the_database_room_names_statements() -> None:
    found = {path for path, module in modules() if not path.startswith("database/") and any(runs(module))}
    assert found == set()


def test_each_statement_is_called_with_its_parameters() -> None:
    wrong = []
    for path, module in modules():
        for name, given, more, line in runs(module):
            one = statements().get(name)
            declared = {*one.parameters, *dict(one.copied)} if one is not None else None
            if declared is None or not (given <= declared if more else given == declared):
                wrong.append(f"{path}:{line}: {name} takes {declared and sorted(declared)}, not {sorted(given)}")
    assert wrong == []


def test_every_statement_is_used() -> None:
    texts = {node.value for _, module in modules() for node in ast.walk(module) if isinstance(node, ast.Constant)}
    assert set(statements()) - texts == set()
