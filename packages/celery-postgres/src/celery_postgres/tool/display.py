"""What the queue tool prints: lines and tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Display:
    """Where it goes.

    Parameters:
        as_json: machines read it.
    """

    def __init__(self, out: Console, *, as_json: bool) -> None:
        self._out = out
        self.as_json = as_json

    def would(self, verb: str, count: int, what: str, **more: Any) -> int:
        self.say(f"would {verb} {count} {what}; with --yes it is done", dry_run=True, verb=verb, count=count, **more)
        return 0

    def did(self, verb: str, count: int, what: str, **more: Any) -> int:
        self.say(f"{verb} {count} {what}", dry_run=False, verb=verb, count=count, **more)
        return 0

    def say(self, line: str, **fields: Any) -> None:
        if self.as_json:
            self._print_json(fields)
        else:
            self._out.print(Text(visible(line)), soft_wrap=True)

    def show(self, names: Sequence[str], rows: list[tuple[Any, ...]], whole: Any = None) -> None:
        if self.as_json:
            self._print_json([dict(zip(names, row, strict=True)) for row in rows] if whole is None else whole)
            return
        table = Table(*names, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(visible(_cell(name, value))) for name, value in zip(names, row, strict=True)))
        self._out.print(table)
        if not rows:
            self._out.print("none", style="dim")

    def _print_json(self, value: Any) -> None:
        self._out.out(json.dumps(value, default=_plain), highlight=False)


def visible(text: str) -> str:
    """The same with everything escaped that a terminal would obey (`\\x1b`, `\\n`, marks that turn the direction of
    writing): producers choose the names of queues and the ids of tasks."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


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
