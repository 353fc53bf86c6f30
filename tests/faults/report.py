"""The outcomes of a run, as JSON and as a table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from environment.testkit.measuring import describe
from tests.faults.load import Outcome

_HEAD = (
    "fault",
    "of",
    "fault lasts",
    "tasks in",
    "out",
    "lost",
    "begun again",
    "finished again",
    "first task after",
    "all done after",
    "seen",
)


class Report:
    """The outcomes of a run.

    Args:
        form: ``quick`` or ``long``.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        self.outcomes: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Add an outcome."""
        self.outcomes.append(outcome)

    def markdown(self) -> str:
        """Return the table."""
        rows = [_HEAD, tuple("---" for _ in _HEAD), *map(_row, self.outcomes)]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def write(self, folder: Path) -> None:
        """Write ``faults.json`` and ``faults.md``."""
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = [{**asdict(one), "lost": one.lost} for one in self.outcomes]
        record: dict[str, Any] = {"form": self.form, "machine": describe(), "outcomes": outcomes}
        (folder / "faults.json").write_text(json.dumps(record, indent=1) + "\n")
        (folder / "faults.md").write_text(self.markdown() + "\n")


def _row(one: Outcome) -> tuple[str, ...]:
    again = str(one.finished_again)
    if one.published_again:
        again += f" ({one.published_again} sent again)"
    return (
        one.fault,
        one.system,
        _seconds(one.fault_s),
        str(one.tasks_in),
        str(one.tasks_out),
        str(one.lost),
        str(one.begun_again),
        again,
        _seconds(one.first_s),
        _seconds(one.all_s),
        ", ".join(f"{name} {value}" for name, value in one.notes.items()),
    )


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
