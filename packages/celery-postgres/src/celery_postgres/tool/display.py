"""What the queue tool prints: lines and tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import Console


class Display:
    """Prints the results of commands.

    Args:
        console: prints lines and tables; None for JSON, which does not need the package rich.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console

    def would(self, verb: str, count: int, noun: str, suffix: str = "", **fields: Any) -> int:
        """Say what the command would do without `--yes`. Returns the exit status 0."""
        line = f"would {verb} {counted(count, noun)}{suffix}; pass --yes to do it"
        self.say(line, dry_run=True, verb=verb, count=count, **fields)
        return 0

    def did(self, verb: str, count: int, noun: str, suffix: str = "", **fields: Any) -> int:
        """Say what the command did. Returns the exit status 0."""
        line = f"{verb} {counted(count, noun)}{suffix}"
        self.say(line, dry_run=False, verb=verb, count=count, **fields)
        return 0

    def say(self, line: str, **fields: Any) -> None:
        """Print `line` for people, or `fields` for programs."""
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
    from rich.table import Table
    from rich.text import Text

    table = Table(*names, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(visible(_cell(name, value))) for name, value in zip(names, row, strict=True)))
    console.print(table)
    if not rows:
        console.print("none", style="dim")


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
