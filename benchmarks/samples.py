"""The journal of a run: a file of JSON lines for each cell, a line per sample, and ``about.json``.

A line is written when its sample is made, so that a run that was cut short resumes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_FAILURES = "failures.json"

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

    def made_at(self, *cells: str) -> str:
        """Return when the samples of these cells were made, from the first to the last, for people."""
        made = sorted(line["made_at"] for cell in cells for line in self.lines(cell))
        ends = list(dict.fromkeys(time[:16].replace("T", " ") for time in (made[:1] + made[-1:])))
        return f"{' to '.join(ends)} UTC" if ends else "never"

    def lines(self, cell: str) -> list[dict[str, Any]]:
        """Return the same, each with the time at which it was made and the load of the machine."""
        try:
            text = self._path(cell).read_text()
        except FileNotFoundError:
            return []
        return [found for line in text.splitlines() if (found := _whole(line)) is not None]

    def took_s(self) -> dict[tuple[str, str], float]:
        """Return how long the last sample of each cell and variant took."""
        return {
            (path.stem, line["variant"]): line["took_s"]
            for path in sorted(self.folder.glob("*.jsonl"))
            for line in self.lines(path.stem)
            if "took_s" in line
        }

    def failures(self) -> dict[str, dict[str, Any]]:
        """Return what could not be measured: ``CELL VARIANT`` → how many ``times`` in a row, and the ``reason``."""
        try:
            found: dict[str, dict[str, Any]] = json.loads((self.folder / _FAILURES).read_text())
        except FileNotFoundError:
            return {}
        return found

    def fail(self, cell: str, variant: str, reason: str) -> None:
        """Note that a sample could not be made."""
        found = self.failures()
        name = f"{cell} {variant}"
        found[name] = {"times": found.get(name, {}).get("times", 0) + 1, "reason": reason}
        self._keep(found)

    def _keep(self, failures: dict[str, dict[str, Any]]) -> None:
        new = self.folder / f"{_FAILURES}.new"
        new.write_text(json.dumps(failures, indent=1) + "\n")
        new.replace(self.folder / _FAILURES)

    def forget(self, cells: Iterable[str]) -> None:
        """Throw away the samples of these cells, and what failed in them."""
        gone = set(cells)
        for cell in gone:
            self._path(cell).unlink(missing_ok=True)
        if failures := self.failures():
            self._keep({name: found for name, found in failures.items() if name.split(" ", 1)[0] not in gone})

    def add(self, cell: str, variant: str, result: dict[str, Any], **about: Any) -> None:
        """Add a sample."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"variant": variant, "made_at": made, **about, "result": result})
        path = self._path(cell)
        # A run that was killed may have left a line without its end.
        begun = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a") as file:
            file.write("\n" * begun + line + "\n")
        failures = self.failures()
        if failures.pop(f"{cell} {variant}", None):
            self._keep(failures)

    def _path(self, cell: str) -> Path:
        return self.folder / f"{cell}.jsonl"


def _whole(line: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found
