"""The page of a run: tables and plots, filled into its places.  The text between the places is written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import about, faster
from benchmarks.cells import Cell, ceiling, front, number, processes, soak, views
from benchmarks.cells.all import PAGE
from benchmarks.figures import shown, with_spread
from benchmarks.run import CEILINGS
from benchmarks.samples import Samples
from benchmarks.systems.registry import NAMES
from environment.sources import CHECKOUT

#: The project's own page and its samples.
OWN = CHECKOUT / "docs" / "benchmarks"

#: (system, label) in the order of the rows.
Order = Sequence[tuple[str, str]]


def write(folder: Path, samples: Samples) -> Path:
    """Write ``README.md`` and the plots of a folder, and for the project's own folder the README's part of it."""
    # Without a page to write, matplotlib need not be there.
    from benchmarks import plots

    drawn = plots.write(folder, samples, _order(about.read(samples.folder)))
    made = {**texts(samples), **{f"plot {name}": content for name, content in drawn.items()}}
    page = folder / "README.md"
    fill(page, made, OWN / "README.md")
    if folder.resolve() == OWN:
        fill(CHECKOUT / "README.md", {"glance": made["glance"]})
    return page


def texts(samples: Samples) -> dict[str, str]:
    """Return the contents of the page's places, except the plots."""
    known = about.read(samples.folder)
    return {
        "about": _about(known, samples),
        "left out": _left_out(known, samples),
        **all_tables(samples, _order(known), known),
    }


def fill(page: Path, places: Mapping[str, str], template: Path | None = None) -> None:
    """Replace what a page has between ``<!-- NAME -->`` and ``<!-- end NAME -->``.

    Args:
        page: a Markdown file.
        places: name → content; a name that the page does not have is left out.
        template: what a page that does not exist is copied from.
    """
    text = (template if template and not page.exists() else page).read_text()
    for name, content in places.items():
        pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        text = pattern.sub(lambda found, content=content: f"{found[1]}{content.rstrip()}\n{found[2]}", text)
    page.write_text(text)


def measured(samples: Samples, cells: Sequence[Cell]) -> str:
    """Return the tables of these cells, for the terminal."""
    known = about.read(samples.folder)
    tables = all_tables(samples, _order(known), known, cells)
    return "\n\n".join(f"{name}\n{content}" for name, content in tables.items() if content.count("\n") > 1)


# -- tables


def table(head: Sequence[str], order: Order, row: Callable[[str], Sequence[str]], figures: slice = slice(None)) -> str:
    """Return a table with a row for each system that has a figure; nothing without one.

    Args:
        head: of all columns.
        order: the systems.
        row: returns the cells of a system.
        figures: which of these are figures.
    """
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for name, label in order:
        cells = list(row(name))
        if any(cell.strip("-, /·→") for cell in cells[figures]):
            bold = f"**{label}**" if name == "ours" else label
            lines.append(f"| {' | '.join([bold, *cells])} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def all_tables(samples: Samples, order: Order, known: dict[str, Any], cells: Sequence[Cell] = PAGE) -> dict[str, str]:
    """Return every table by the name of its place on the page."""
    found = {}
    if cells is PAGE:
        found["glance"] = _glance(samples, order, known.get("systems", {}))
        found["slower"] = faster.slower(samples, order)
        found["targets"] = faster.targets(samples)
        found["soak"] = _soak(samples, order)
    for cell in cells:
        results = samples.of(cell.name)
        for place, columns in {**cell.tables, **({} if cells is PAGE else cell.printed)}.items():
            head = ["", *(label for label, _ in columns)]
            found[place] = table(head, order, lambda name, c=columns, r=results: [column(r, name) for _, column in c])
        if cell is ceiling.CELL:
            found["ceiling"] = _ceiling(samples)
        if cell is soak.CELL:
            found["soak"] = _soak(samples, order)
        if cell is front.CELL:
            found["front"] = front.table(results)
        if cell is views.CELL:
            found["views"] = views.table(results)
    return found


def _glance(samples: Samples, order: Order, systems: dict[str, Any]) -> str:
    enqueue, drain, pools, latency = (samples.of(cell) for cell in ("enqueue", "drain", "processes", "latency"))
    return table(
        [
            *("", "durable", "publish/s", "in bulk/s", "two processes: tasks/s", "with results/s", "… and late acks/s"),
            *("one process: tasks/s", "with results/s", "ms to start, idle p50 / p99"),
        ],
        [(name, label) for name, label in order if name not in CEILINGS],
        lambda name: [
            str(systems.get(name, {}).get("durable", "")).partition(":")[0],
            number("one_by_one", "rate")(enqueue, name),
            number("in_bulk", "rate")(enqueue, name),
            processes.plain(pools, name),
            number("results", "rate")(pools, name),
            number("late-results", "rate")(pools, name),
            number("0ms plain", "rate")(drain, name),
            number("0ms results", "rate")(drain, name),
            number("idle", "p50", "p99")(latency, name),
        ],
        figures=slice(1, None),
    )


def _ceiling(samples: Samples) -> str:
    results = samples.of("ceiling")
    clients = [(f"pgbench {count}", f"pgbench, {count} connection{'s' * (count > 1)}") for count in ceiling.CLIENTS]
    keys = ("insert_tps", "claim_delete_tps")
    return table(["", "inserts/s", "takes/s"], clients, lambda name: [with_spread(results, name, key) for key in keys])


def _soak(samples: Samples, order: Order) -> str:
    """The first and the last fifth of the time, and when that was: a run of the page does not make it anew."""
    together = samples.of("soak").get("together", [])
    lanes = together[-1] if together else {}

    def row(name: str) -> list[str]:
        if name not in lanes:
            return []
        readings = lanes[name]["over_time"]
        fifth = max(1, len(readings) // 5)

        def change(read: Callable[[dict[str, Any]], float | None]) -> str:
            ends = [
                [found for reading in part if (found := read(reading)) is not None]
                for part in (readings[:fifth], readings[-fifth:])
            ]
            return " → ".join(shown(median(end)) if end else "-" for end in ends)

        return [
            change(lambda reading: reading["p50"]),
            change(lambda reading: reading["p99"]),
            change(lambda reading: (reading["table_bytes"] + reading["index_bytes"]) / 1e6),
            change(lambda reading: reading["dead_tuples"]),
            change(lambda reading: reading["uss_mb"]),
            str(lanes[name]["missing"]),
        ]

    head = ["", "p50, ms", "p99, ms", "tables and indexes, MB", "dead rows", "worker USS, MB", "lost"]
    found = table(head, order, row)
    return f"{found}\n\nMeasured {samples.made_at('soak')}, with the versions of that day." if found else ""


# -- about the run


def _order(known: dict[str, Any]) -> Order:
    described = known.get("systems", {})
    return [(name, described[name]["label"]) for name in NAMES if name in described]


def _about(known: dict[str, Any], samples: Samples) -> str:
    if not known:
        return ""
    machine = known["machine"]
    settings = ", ".join(f"`{name} = {value}`" for name, value in known["postgres"].items() if "log" not in name)
    when = samples.made_at(*(cell.name for cell in PAGE))
    rounds = max((len(made) for cell in PAGE for made in samples.of(cell.name).values()), default=0)
    lines = [
        f"{machine['processors']} x {machine['processor']}, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}; workers, servers and harness on the same processors; measured {when}, "
        f"{rounds} of {max(cell.repetitions for cell in PAGE)} rounds. "
        f"PostgreSQL: {settings}.",
        "",
        "| system | versions | durable | tasks at a time | set up |",
        "|---|---|---|---:|---|",
    ]
    for name in NAMES:
        if system := known["systems"].get(name):
            versions = ", ".join(f"{what} {version}" for what, version in system["versions"].items())
            lines.append(
                f"| {system['label']} | {versions} | {system['durable']} | {system['concurrency']:,} "
                f"| {system['settings']} |"
            )
    return "\n".join(lines)


def _left_out(known: dict[str, Any], samples: Samples) -> str:
    """What a system cannot do, what was left out by rule, and what failed."""
    systems: dict[str, Any] = {name: known["systems"][name] for name in NAMES if name in known.get("systems", {})}
    reasons: dict[str, list[str]] = {}
    for name, system in systems.items():
        for ability in () if name in CEILINGS else system.get("cannot", ()):
            reasons.setdefault(f"Not measured with {ability}", []).append(system["label"])
    lines = [f"- {reason}: {', '.join(labels)}." for reason, labels in reasons.items()]
    for system in systems.values():
        lines += [f"- {system['label']}, `{what}`: {why}." for what, why in system.get("skips", {}).items()]
    lines += [f"- Not measured: {name} ({reason})." for name, reason in known.get("missing", {}).items()]
    lines += [f"- Failed: `{what}` ({found['reason']})." for what, found in samples.failures().items()]
    return "\n".join(lines)
