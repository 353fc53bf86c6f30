"""What the queue tool prints: lines and tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import Console


class Capped(int):
    """A count that stopped at a cap: as text `10,000+`, in JSON the number at which it stopped."""

    _stopped: bool

    def __new__(cls, count: int, cap: int | None = None) -> Self:
        made = super().__new__(cls, count)
        made._stopped = cap is not None and count >= cap
        return made

    def __str__(self) -> str:
        return f"{int(self) - 1:,}+" if self._stopped else str(int(self))


class Display:
    """Prints the results of commands.

    Args:
        console: prints lines and tables; None for JSON, which does not need the package rich.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console
        #: What was said last, and how many things were changed.
        self.line, self.count = "", 0

    @property
    def is_json(self) -> bool:
        """Whether it prints for programs."""
        return self._console is None

    def would(self, verb: str, count: int, noun: str, suffix: str = "", **fields: Any) -> int:
        """Say what the command would do without `--yes`. Returns the exit status 0."""
        line = f"would {verb} {counted(count, noun)}{suffix}; pass --yes to do it"
        self.say(line, dry_run=True, verb=verb, count=count, **fields)
        return 0

    def did(self, verb: str, count: int, noun: str, suffix: str = "", **fields: Any) -> int:
        """Say what the command did. Returns the exit status 0."""
        line = f"{verb} {counted(count, noun)}{suffix}"
        self.count = count
        self.say(line, dry_run=False, verb=verb, count=count, **fields)
        return 0

    def say(self, line: str, **fields: Any) -> None:
        """Print `line` for people, or `fields` for programs."""
        self.line = line
        if self._console is None:
            _print_json(fields)
        else:
            self._console.print(visible(line), soft_wrap=True)

    def show(self, kind: type[DataclassInstance], records: Sequence[DataclassInstance]) -> None:
        """Print records of one kind; its fields are the columns, and the keys of the JSON."""
        if self._console is None:
            _print_json([asdict(record) for record in records])
            return
        names = [field.name for field in fields(kind)]
        _print_table(self._console, names, [[getattr(record, name) for name in names] for record in records])

    def show_one(self, record: dict[str, Any]) -> None:
        """Print one record, a line for each field."""
        if self._console is None:
            _print_json(record)
        else:
            _print_table(self._console, ("field", "value"), list(record.items()))


def counted(count: int, noun: str) -> str:
    """`1 message`, `2 messages of q`: the first word of `noun` gets the plural."""
    word, _, rest = noun.partition(" of ")
    return f"{count} {word}{'' if count == 1 else 's'}{' of ' + rest if rest else ''}"


def visible(text: str) -> str:
    """Escape everything that a terminal would obey (`\\x1b`, `\\n`, marks that turn the direction of writing).

    Producers choose the names of queues and the ids of tasks.
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, default=_plain) + "\n")
    sys.stdout.flush()


def _print_table(console: Console, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; where it is too wide for a terminal, without its empty columns, or else a block for each row.

    Nothing is cut: an id of which a terminal shows the half is of no use in the next command.
    """
    from rich.table import Table
    from rich.text import Text

    cells = [[visible(_cell(name, value)) for name, value in zip(names, row, strict=True)] for row in rows]
    kept = list(range(len(names)))
    if _width(names, cells, kept) > console.width:
        kept = [place for place in kept if place == 0 or any(row[place] not in ("", "0") for row in cells)]
    if rows and _width(names, cells, kept) > console.width:
        for row in cells:
            console.print(Text(row[0], style="bold"), soft_wrap=True)
            for place in kept[1:]:
                if row[place]:
                    console.print(Text(f"  {names[place]}: {row[place]}"), soft_wrap=True)
        return
    table = Table(*(names[place] for place in kept), box=None, pad_edge=False, header_style="bold")
    for row in cells:
        table.add_row(*(Text(row[place]) for place in kept))
    console.print(table)
    if not rows:
        console.print("none", style="dim")


def _width(names: Sequence[str], cells: Sequence[Sequence[str]], kept: Sequence[int]) -> int:
    """How wide a table of these columns is."""
    from rich.cells import cell_len

    longest = (max([cell_len(names[place]), *(cell_len(row[place]) for row in cells)]) for place in kept)
    return sum(longest) + 2 * max(0, len(kept) - 1)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_s"):
        return f"{value:.1f}"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, list):
        return ", ".join(value)
    return str(value)
