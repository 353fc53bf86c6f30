"""The `.sql` files of the migrations: `0001_name.up.sql` and `0001_name.down.sql`.

A file is a list of steps. A step begins with one of these lines, and ends where the next one begins:

    -- step: what it does                      statements that are one transaction
    -- concurrently: index on table            one CREATE INDEX CONCURRENTLY, outside of a transaction
    -- drop concurrently: index                one DROP INDEX CONCURRENTLY, outside of a transaction
    -- guard: things would be lost (%s)        a query for a count, which must be 0

`-- unless: condition`, continued on lines that begin with `--   `, names when a step has nothing to do. Every step may
be executed again: a migration that was cut off begins again at its first step.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from celery_postgres.database.lexer import uncommented
from celery_postgres.errors import CeleryPostgresError

Kind = Literal["step", "concurrently", "drop concurrently", "guard"]

_FOLDER = Path(__file__).parent
_HEAD = re.compile(r"^-- (step|concurrently|drop concurrently|guard): (.*)\n((?:-- unless: .*\n(?:--   .*\n)*)?)", re.M)
_INDEX = re.compile(r"(\w+)(?: on (\w+))?")


class MigrationError(CeleryPostgresError):
    """The schema cannot be migrated as asked. The text names the migration, and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction, or one statement outside of a transaction.

    Attributes:
        what: what the step does, for the log; of a guard the message, with `%s` for the count.
        unless: a condition under which there is nothing to do, or "".
        index: the index that is created or dropped concurrently.
        table: the table of an index that is created.
    """

    kind: Kind
    what: str
    unless: str
    sql: str
    index: str = ""
    table: str = ""

    @property
    def doing(self) -> str:
        """What the step does, after "to"."""
        if self.index:
            return f"{'drop' if self.kind == 'drop concurrently' else 'create'} the index {self.index}"
        return self.what


@dataclass(frozen=True, slots=True)
class Migration:
    """A number, and the two files that it stands for.

    Attributes:
        checksum: SHA-256 of the file that is applied on the way up.
    """

    number: int
    name: str
    checksum: str
    up: tuple[Step, ...]
    down: tuple[Step, ...]


@lru_cache(maxsize=1)
def migrations() -> tuple[Migration, ...]:
    """All migrations of this release, from number 1 on."""
    return load(_FOLDER)


def load(folder: Path) -> tuple[Migration, ...]:
    """The migrations of a folder.

    Raises:
        ValueError: the numbers have a gap, or a file cannot be read as steps.
    """
    found = []
    for expected, path in enumerate(sorted(folder.glob("*.up.sql")), 1):
        number, name = path.name.removesuffix(".up.sql").split("_", 1)
        if int(number) != expected:
            raise ValueError(f"the migration {expected:04} is missing before {path.name}")
        up = path.read_bytes().replace(b"\r\n", b"\n")
        down = path.with_name(f"{number}_{name}.down.sql").read_text(encoding="utf-8")
        found.append(Migration(expected, name, hashlib.sha256(up).hexdigest(), _steps(up.decode()), _steps(down)))
    return tuple(found)


def _steps(text: str) -> tuple[Step, ...]:
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return tuple(_step(head, text[head.end() : end]) for head, end in zip(heads, ends, strict=True))


def _step(head: re.Match[str], text: str) -> Step:
    kind: Kind = head[1]  # type: ignore[assignment]  # the pattern knows these four alone
    unless = re.sub(r"\n?--   ?", " ", head[3].removeprefix("-- unless: ")).strip()
    sql = uncommented(text).rstrip(";")
    if not kind.endswith("concurrently"):
        return Step(kind, head[2], unless, sql)
    named = _INDEX.fullmatch(head[2])
    if named is None or (kind == "concurrently") != bool(named[2]) or " CONCURRENTLY " not in sql:
        raise ValueError(f"not the head of a statement that works concurrently: {head[0]}")
    return Step(kind, head[2], unless, sql, index=named[1], table=named[2] or "")


#: The number that this release needs.
NEWEST = len(list(_FOLDER.glob("*.up.sql")))
