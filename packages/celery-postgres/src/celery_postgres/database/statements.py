"""The named statements of the `.sql` files beside this module.

A statement begins with `-- name: …`, its parameters are declared in `-- takes: name type, …` and written
`%(name)s`. Each is loaded in two forms: to be prepared (`$1`), and to be sent as it is, for a pooler in between. In
neither is a comment: a driver fills placeholders in there too.

One that wakes somebody has a form that does not (`quietly`): where the server's NOTIFY queue is full, the commit of
whoever notifies fails, and a wake-up is not worth a message or a result. Who sleeps looks by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from celery_postgres.database.lexer import misplaced, uncommented

_FOLDER = Path(__file__).parent / "sql"
_NUMBERS = frozenset({"bigint[]", "integer[]", "smallint[]"})


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `parameters` in the order in which `execute` and `direct` take them, `numbers` those of them that
    are arrays of integers. `quietly`: the same without a wake-up, if it has one."""

    name: str
    parameters: tuple[str, ...]
    numbers: tuple[str, ...]
    prepare: str
    execute: str
    direct: str
    quietly: Statement | None = None


@lru_cache(maxsize=1)
def statements() -> dict[str, Statement]:
    """All of them, by name."""
    return {name: one for path in sorted(_FOLDER.glob("*.sql")) for name, one in load(path).items()}


def load(path: Path) -> dict[str, Statement]:
    """The statements of a file, by name.

    Raises:
        ValueError: a placeholder stands within quotes, or is not declared.
    """
    parts = re.split(r"^-- name: ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {statement.name: statement for statement in map(_with_quiet_form, parts)}


def script(name: str) -> str:
    """A file of several statements without parameters."""
    return uncommented((_FOLDER / f"{name}.sql").read_text(encoding="utf-8"))


def _with_quiet_form(part: str) -> Statement:
    name, _, text = part.partition("\n")
    statement = _parse(name.strip(), text)
    if "pg_notify(" not in statement.direct:
        return statement
    return replace(statement, quietly=_parse(f"{statement.name}_quietly", text.replace("pg_notify(", "concat(")))


def _parse(name: str, text: str) -> Statement:
    takes = re.search(r"^-- takes: ((?:.*\n)(?:--   .*\n)*)", text, flags=re.MULTILINE)
    declared = re.sub(r"\n--\s*", " ", takes[1]).strip() if takes else ""
    typed = dict(entry.strip().split(" ", 1) for entry in declared.split(",") if entry.strip())
    body = uncommented(text).rstrip(";")
    numbers = {parameter: f"${number}" for number, parameter in enumerate(typed, 1)}
    if wrong := misplaced(body):
        raise ValueError(f"the statement {name} has placeholders within quotes: {', '.join(wrong)}")
    if undeclared := set(re.findall(r"%\((\w+)\)s", body)) - typed.keys():
        raise ValueError(f"the statement {name} does not declare {', '.join(sorted(undeclared))}")
    prepared = re.sub(r"%\((\w+)\)s", lambda match: numbers[match[1]], body)
    types = f" ({', '.join(typed.values())})" if typed else ""
    values = f" ({', '.join(f'%({parameter})s' for parameter in typed)})" if typed else ""
    direct = re.sub(r"%\((\w+)\)s", lambda match: f"CAST({match[0]} AS {typed[match[1]]})", body)
    return Statement(
        name=name,
        parameters=tuple(typed),
        numbers=tuple(parameter for parameter, kind in typed.items() if kind in _NUMBERS),
        prepare=f"PREPARE {name}{types} AS {prepared}",
        execute=f"EXECUTE {name}{values}",
        direct=direct,
    )
