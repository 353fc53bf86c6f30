"""The named statements of the `.sql` files beside this module.

A statement begins with `-- name: …`. `-- repeatable` declares that executing it twice is executing it once. Its
parameters are declared in `-- takes: name type, …` and written `%(name)s`. Each statement is loaded in two forms: to
be prepared (`$1`), and to be sent as it is, through a transaction pooler. Both are without comments: a driver fills in
placeholders there too.

A statement that wakes consumers has a form that does not (`quietly`): when the server's NOTIFY queue is full, every
commit with a NOTIFY fails, and a wake-up is not worth a message or a result. Sleeping consumers poll.
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
    """One statement.

    Attributes:
        parameters: their names, in the order in which `execute` and `direct` take them.
        numbers: the parameters that are arrays of integers.
        repeatable: it may be sent again when its answer was lost.
        quietly: the same statement without its wake-up, if it has one.
    """

    name: str
    parameters: tuple[str, ...]
    numbers: tuple[str, ...]
    prepare: str
    execute: str
    direct: str
    repeatable: bool = False
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
        repeatable=re.search(r"^-- repeatable$", text, flags=re.MULTILINE) is not None,
    )
