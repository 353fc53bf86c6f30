"""The journal of a run: a file of JSON lines for each cell, a line per sample, and ``about.json``.

A line is written when its sample is made, so that a run that was cut short resumes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Variant → its samples in the order of their repetitions.
Results = dict[str, list[dict[str, Any]]]


class Samples:
    """The samples of a run.

    Args:
        folder: their folder; a sample that is there is not made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, cell: str) -> Results:
        """Return the samples of a cell."""
        found: Results = {}
        for line in self.lines(cell):
            found.setdefault(line["variant"], []).append(line["result"])
        return found

    def lines(self, cell: str) -> list[dict[str, Any]]:
        """Return the same, each with the time at which it was made and the load of the machine."""
        try:
            text = self._path(cell).read_text()
        except FileNotFoundError:
            return []
        return [found for line in text.splitlines() if (found := _whole(line)) is not None]

    def add(self, cell: str, variant: str, result: dict[str, Any], **about: Any) -> None:
        """Add a sample."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"variant": variant, "made_at": made, **about, "result": result})
        path = self._path(cell)
        # A run that was killed may have left a line without its end.
        begun = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a") as file:
            file.write("\n" * begun + line + "\n")

    def _path(self, cell: str) -> Path:
        return self.folder / f"{cell}.jsonl"


def _whole(line: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found
