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
        for line in self._lines(cell):
            found.setdefault(line["variant"], []).append(line["result"])
        return found

    def lines(self, cell: str) -> list[dict[str, Any]]:
        """The same with when it was made and how loud the machine was."""
        return self._lines(cell)

    def add(self, cell: str, variant: str, result: dict[str, Any], **about: Any) -> None:
        """Keep a sample."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        with self._path(cell).open("a") as file:
            file.write(json.dumps({"variant": variant, "made_at": made, **about, "result": result}) + "\n")

    def _lines(self, cell: str) -> list[dict[str, Any]]:
        try:
            text = self._path(cell).read_text()
        except FileNotFoundError:
            return []
        # A line that was being written when the run was killed has no end.
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _path(self, cell: str) -> Path:
        return self.folder / f"{cell}.jsonl"
