"""What each view of the console costs: with a million tasks waiting and ten million ended.

Filling takes five minutes and 7 GB.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from benchmarks.cells import Cell
from benchmarks.figures import middle, shown
from benchmarks.programs.console_program import VIEWS
from benchmarks.run import Run
from benchmarks.samples import Results
from benchmarks.systems import System
from benchmarks.systems.clusters import connect
from benchmarks.view_filling import fill
from environment.testkit.children import call

_PROGRAM = "benchmarks.programs.console_program"
#: What is measured of each view, in milliseconds.
MEASURED = {
    "first sql": "of SQL at the first look of a process",
    "first byte": "to the first byte of that look",
    "sql": "of SQL at the next looks",
    "byte": "to the first byte of these",
}


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """What each view took, as its name and one of `MEASURED`.

    Raises:
        AssertionError: a view was not shown.
    """
    with system.fresh() as broker:
        url = str(broker.url)  # type: ignore[attr-defined]
        with closing(connect(url)) as connection:
            fill(
                connection,
                waiting=int(run.pick(100_000, 1_000_000)),
                ended=int(run.pick(100_000, 10_000_000)),
                attempts=int(run.pick(20_000, 1_000_000)),
                minutes=int(run.pick(180, 2_880)),
                hours=int(run.pick(24, 1_440)),
            )
        found = call(_PROGRAM, url, variables={})
    wrong = {name: one["status"] for name, one in found.items() if one["status"] not in (200, 303)}
    assert not wrong, wrong
    return {f"{name} {what}": one[what] for name, one in found.items() for what in MEASURED}


def table(results: Results) -> str:
    """Return a table with a row for each view: sixty columns are wider than any page."""
    if not results:
        return ""
    rows = [[name, *(shown(middle(results, "ours", f"{name} {what}")) for what in MEASURED)] for name, _, _ in VIEWS]
    heads = [["milliseconds", *MEASURED.values()], ["---", *("---:" for _ in MEASURED)]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in heads + rows)


CELL = Cell(
    "views",
    lambda run: run.present("ours"),
    measure,
    repetitions=1,
    deadline_s=1_200,
)
