"""Raw results: a file of JSON lines for each cell; a line is written when its sample is made, so that a run resumes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Variant → its samples in the order of their repetitions.
Results = dict[str, list[dict[str, Any]]]


class Samples:
    """The samples of a run.

    :param folder: where they lie; a sample found there is not made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, cell: str) -> Results:
        """All that were made for a cell."""
        found: Results = {}
        for line in self.lines(cell):
            found.setdefault(line["variant"], []).append(line["result"])
        return found

    def lines(self, cell: str) -> list[dict[str, Any]]:
        """The same with when it was made and how loud the machine was."""
        try:
            text = self._path(cell).read_text()
        except FileNotFoundError:
            return []
        return [found for line in text.splitlines() if (found := _whole(line)) is not None]

    def add(self, cell: str, variant: str, result: dict[str, Any], **about: Any) -> None:
        """Keep a sample."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"variant": variant, "made_at": made, **about, "result": result})
        path = self._path(cell)
        # A line that was being written when the run was killed has no end, and is given one.
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
