"""The page of a run: tables and plots into the places that the page has for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.comparison import about, blocks, tables
from benchmarks.comparison.tables import Order
from benchmarks.samples import Samples
from benchmarks.systems.registry import NAMES
from environment.sources import CHECKOUT

#: The project's own page and its samples.
OWN = CHECKOUT / "docs" / "benchmarks"


def write(folder: Path, samples: Samples) -> Path:
    """Write ``README.md`` and the plots of a folder; the project's own README shows the plot ``glance``."""
    # A caller that only reads samples needs no matplotlib.
    from benchmarks.comparison import plots

    shown = plots.write(folder, samples, _order(about.read(samples.folder)))
    made = {**texts(samples), **{f"plot {name}": content for name, content in shown.items()}}
    page = folder / "README.md"
    blocks.fill(page, made, OWN / "README.md")
    return page


def texts(samples: Samples) -> dict[str, str]:
    """What stands in the places of the page, but for the plots."""
    known = about.read(samples.folder)
    return {"about": _about(known, samples), **tables.all_tables(samples, _order(known), known)}


def _order(known: dict[str, Any]) -> Order:
    described = known.get("systems", {})
    return [(name, described[name]["label"]) for name in NAMES if name in described]


def _about(known: dict[str, Any], samples: Samples) -> str:
    if not known:
        return ""
    machine = known["machine"]
    made = sorted(line["made_at"] for path in samples.folder.glob("*.jsonl") for line in samples.lines(path.stem))
    settings = ", ".join(f"`{name} = {value}`" for name, value in known["postgres"].items() if "log" not in name)
    when = f"{made[0][:16].replace('T', ' ')} to {made[-1][:16].replace('T', ' ')} UTC" if made else "never"
    lines = [
        f"{machine['processors']} x {machine['processor']}, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}; workers, servers and harness on the same processors; measured {when}. "
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
    lines += [f"\nNot measured: {name} ({reason})." for name, reason in known["missing"].items()]
    return "\n".join(lines)
