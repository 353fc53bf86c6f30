"""The named statements of the `.sql` files beside this module.

A statement begins with `-- name: …`. `-- repeatable` declares that executing it twice is executing it once. Its
parameters are declared in `-- takes: name type, …` and written `%(name)s`. Each statement is loaded in two forms: to
be prepared (`$1`), and to be sent as it is, through a transaction pooler. Both are without comments: a driver fills in
placeholders there too.

What several statements have in common is a fragment of `fragments.sql`: a line `-- include: name` stands for the text
of that fragment, which may include others. So a list of columns or a wake-up is written once.

A statement that wakes consumers has a form that does not (`quietly`): when the server's NOTIFY queue is full, every
commit with a NOTIFY fails, and a message or a result is worth more than a wake-up. Sleeping consumers poll.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from celery_postgres.database.lexer import misplaced, uncommented

_FOLDER = Path(__file__).parent / "sql"
_INCLUDE = re.compile(r"^( *)-- include: (\w+)\n", flags=re.MULTILINE)
_NUMBERS = frozenset({"bigint[]", "integer[]", "smallint[]"})


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Attributes:
        parameters: their names, in the order in which `execute` and `direct` take them.
        numbers: the parameters that are arrays of integers.
        numbered: `direct` with `$1` for a driver that has no names for parameters; PostgreSQL knows their types.
        repeatable: it may be sent again when its answer was lost.
        quietly: the same statement without its wake-up, if it has one.
        copied: of a COPY (`-- copies: name type, …`), its columns and their types; it is sent as it is.
    """

    name: str
    parameters: tuple[str, ...]
    numbers: tuple[str, ...]
    prepare: str
    execute: str
    direct: str
    numbered: str
    repeatable: bool = False
    quietly: Statement | None = None
    copied: tuple[tuple[str, str], ...] = ()


@lru_cache(maxsize=1)
def statements() -> dict[str, Statement]:
    """All statements, by name."""
    return {name: one for path in sorted(_FOLDER.glob("*.sql")) for name, one in load(path).items()}


def load(path: Path) -> dict[str, Statement]:
    """The statements of a file, by name.

    Raises:
        ValueError: a placeholder stands within quotes or is not declared, or a fragment does not exist.
    """
    parts = _parts("name", path)
    return {name: _with_quiet_form(name, included(text, fragments())) for name, text in parts.items()}


@lru_cache(maxsize=1)
def fragments() -> dict[str, str]:
    """All fragments, by name."""
    return _parts("fragment", _FOLDER / "fragments.sql")


def included(text: str, known: dict[str, str]) -> str:
    """`text` with each `-- include: name` replaced by that fragment, indented as the line is.

    Raises:
        ValueError: there is no such fragment, or it includes itself.
    """

    def fragment(line: re.Match[str]) -> str:
        indent, name = line.groups()
        if name not in known:
            raise ValueError(f"there is no fragment {name}")
        others = {other: body for other, body in known.items() if other != name}
        return textwrap.indent(included(known[name], others).strip("\n") + "\n", indent)

    return _INCLUDE.sub(fragment, text if text.endswith("\n") else text + "\n")


def _parts(heading: str, path: Path) -> dict[str, str]:
    """The parts of a file that begin with `-- heading: name`, by name."""
    parts = re.split(rf"^-- {heading}: (\w+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _with_quiet_form(name: str, text: str) -> Statement:
    statement = _parse(name, text)
    if "pg_notify(" not in statement.direct:
        return statement
    return replace(statement, quietly=_parse(f"{name}_quietly", text.replace("pg_notify(", "concat(")))


def _declared(what: str, text: str) -> dict[str, str]:
    """The types that a comment of the statement declares, by name."""
    found = re.search(rf"^-- {what}: ((?:.*\n)(?:--   .*\n)*)", text, flags=re.MULTILINE)
    declared = re.sub(r"\n--\s*", " ", found[1]).strip() if found else ""
    return dict(entry.strip().split(" ", 1) for entry in declared.split(",") if entry.strip())


def _parse(name: str, text: str) -> Statement:
    typed = _declared("takes", text)
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
        numbered=re.sub(r"%\((\w+)\)s", lambda match: numbers[match[1]], direct),
        repeatable=re.search(r"^-- repeatable$", text, flags=re.MULTILINE) is not None,
        copied=tuple(_declared("copies", text).items()),
    )
