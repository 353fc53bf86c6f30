"""Raw results: one JSON file for each sample, written when it is made, so that a run resumes where it ended."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: A cell's results: variant → the samples in the order of their repetitions.
Results = dict[str, list[dict[str, Any]]]


class Store:
    """The samples of a run.

    :param folder: where they lie; samples found there are not made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, cell: str, variant: str, repetition: int) -> dict[str, Any] | None:
        """A sample that has been made, or None."""
        try:
            found: dict[str, Any] = json.loads(self._path(cell, variant, repetition).read_text())
        except FileNotFoundError:
            return None
        return found

    def save(self, cell: str, variant: str, repetition: int, content: dict[str, Any]) -> None:
        """Keep a sample."""
        path = self._path(cell, variant, repetition)
        head = {"cell": cell, "variant": variant, "repetition": repetition}
        made = datetime.now(UTC).isoformat(timespec="seconds")
        half = path.with_suffix(".half")
        half.write_text(json.dumps({**head, "made_at": made, **content}, indent=1) + "\n")
        half.rename(path)

    def _path(self, cell: str, variant: str, repetition: int) -> Path:
        return self.folder / f"{cell}.{variant.replace(' ', '-').replace('/', '-')}.{repetition}.json"
