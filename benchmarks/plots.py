"""Plots of the samples, as SVG: ours with a thick line, the ceilings pale, each other system in its own colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.cells.backlog import LENGTHS
from benchmarks.cells.fleet import GROWN
from benchmarks.figures import middle
from benchmarks.run import CEILINGS
from benchmarks.samples import Samples

#: (system, label) in the order of the rows.
Order = Sequence[tuple[str, str]]

_OURS = "#c2410c"
#: Colour-blind safe (Okabe and Ito), without the orange that is near ours.
_OTHERS = (
    "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#8c6d00", "#555555", "#7b3fa0", "#5f9e2f", "#1b3f8b", "#a0522d",
    "#d4a017", "#c51b7d", "#e7298a", "#66a61e", "#377eb8",
)  # fmt: skip
_STYLE = {
    "svg.fonttype": "none",
    # The same samples give the same file.
    "svg.hashsalt": "benchmarks",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
}


def write(folder: Path, samples: Samples, order: Order) -> dict[str, str]:
    """Write the plots that have samples; return for each name the Markdown of a page beside it, empty without one."""
    pyplot.rcParams.update(_STYLE)
    shown = {}
    for name, draw in (
        ("glance", _glance),
        ("latency", _latency),
        ("backlog", _backlog),
        ("pinned", _pinned),
        ("fleet", _fleet),
        ("soak", _soak),
    ):
        figure = draw(samples, order)
        shown[name] = "" if figure is None else f"![{name}]({name}.svg)"
        if figure is not None:
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
            pyplot.close(figure)
    return shown


def _colours(order: Order) -> dict[str, str]:
    others = [name for name, _ in order if name != "ours" and name not in CEILINGS]
    found = {name: _OTHERS[position % len(_OTHERS)] for position, name in enumerate(others)}
    return {**found, "ours": _OURS, **dict.fromkeys(CEILINGS, "#bbbbbb")}


def _glance(samples: Samples, order: Order) -> Any:
    """Tasks a second, publishes a second and latency, as bars: the longest on top."""
    pools, late = samples.of("processes"), "with results and late acks"
    panels = [
        (f"tasks/s, prefork with 2 children, {late}", pools, ("late-results",), "rate", "{:,.0f}"),
        ("tasks/s, two processes, no results (log)", pools, ("plain", "late", "two"), "rate", "{:,.0f}"),
        ("published/s, one producer, one by one", samples.of("enqueue"), ("one_by_one",), "rate", "{:,.0f}"),
        ("ms from publish to start, idle, p50 (log)", samples.of("latency"), ("idle",), "p50", "{:,.1f}"),
    ]
    labels, colours = dict(order), _colours(order)
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 8))
    some = False
    for axis, (title, results, kinds, key, form) in zip(grid.flat, panels, strict=True):
        bars = []
        for name, _ in order:
            medians = (middle(results, f"{name} {kind}", key) for kind in kinds)
            if name not in CEILINGS and (found := next((value for value in medians if value), None)) is not None:
                bars.append((found, name))
        bars.sort(reverse=key == "p50")
        some = some or bool(bars)
        axis.set_visible(bool(bars))
        positions = range(len(bars))
        axis.barh(positions, [found for found, _ in bars], color=[colours[name] for _, name in bars])
        axis.set_yticks(positions, [labels[name] for _, name in bars])
        for position, (found, name) in enumerate(bars):
            weight = "bold" if name == "ours" else "normal"
            axis.annotate(
                form.format(found),
                (found, position),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                fontweight=weight,
            )
        if "log" in title and bars:
            axis.set_xscale("log")
        axis.margins(x=0.18)
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(visible=False, axis="y")
    figure.tight_layout()
    return figure if some else None


def _latency(samples: Samples, order: Order) -> Any:
    results = samples.of("latency")
    if not results:
        return None
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, load in zip(axes, ("idle", "half"), strict=True):
        for name, label in order:
            for sample in results.get(f"{name} {load}", [])[-1:]:
                _line(axis, sample["quantiles"], [step * 2 for step in range(51)], name, label, order)
        axis.set_xscale("log")
        axis.set_xlabel("ms from publish to start")
        axis.set_title({"idle": "idle worker", "half": "half of what the system can do"}[load], fontsize=10, loc="left")
    axes[0].set_ylabel("% of tasks")
    lines, labels = axes[0].get_legend_handles_labels()
    axes[1].legend(lines, labels, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _backlog(samples: Samples, order: Order) -> Any:
    results = samples.of("backlog")
    if not results:
        return None
    figure, axis = pyplot.subplots(figsize=(8, 4.2))
    for name, label in order:
        points = [(n, found) for n in LENGTHS if (found := middle(results, f"{name} {n}", "rate"))]
        if points:
            _line(axis, [n for n, _ in points], [found for _, found in points], name, label, order, marker="o")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("tasks waiting")
    axis.set_ylabel("tasks/s (log)")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _pinned(samples: Samples, order: Order) -> Any:
    results = samples.of("pinned")
    figure, axis = pyplot.subplots(figsize=(8, 4.2))
    some = False
    for name, label in order:
        for sample in results.get(f"{name} pinned", [])[-1:]:
            curve = _smooth(sample["curve"])
            _line(axis, range(len(curve)), curve, name, label, order)
            some = True
    axis.set_yscale("log")
    axis.set_xlabel("seconds since a transaction began that never ends")
    axis.set_ylabel("tasks/s (log)")
    if not some:
        pyplot.close(figure)
        return None
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _fleet(samples: Samples, order: Order) -> Any:
    results = samples.of("fleet")
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    some = False
    panels = [
        ("all of them with the server, % of a core (log)", ("worker_ms", "server_ms"), 0.1),
        ("operations of the server a second (log)", ("operations_each_s",), 1.0),
    ]
    for axis, (title, keys, scale) in zip(axes, panels, strict=True):
        for name, label in order:
            points = []
            for count in GROWN:
                found = [middle(results, f"{name} grown", f"{key} {count}") for key in keys]
                if None not in found:
                    points.append((count, count * scale * sum(value for value in found if value is not None)))
            if points:
                _line(axis, [x for x, _ in points], [y for _, y in points], name, label, order, marker="o")
                some = True
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("idle workers")
        axis.set_xticks(GROWN, [str(count) for count in GROWN])
        axis.set_title(title, fontsize=10, loc="left")
    if not some:
        pyplot.close(figure)
        return None
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def _soak(samples: Samples, order: Order) -> Any:
    together = samples.of("soak").get("together", [])
    if not together:
        return None
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 6.5), sharex=True)
    panels = [
        ("latency p99, ms (log)", lambda look: look["p99"]),
        ("tables and indexes, MB (log)", lambda look: (look["table_bytes"] + look["index_bytes"]) / 1e6),
        ("dead rows", lambda look: look["dead_tuples"]),
        ("memory of the worker (USS), MB", lambda look: look["uss_mb"]),
    ]
    for axis, (title, read) in zip(axes.flat, panels, strict=True):
        for name, label in order:
            looks = [look for look in together[-1].get(name, {}).get("over_time", []) if read(look) is not None]
            if looks:
                _line(axis, [look["at_s"] / 60 for look in looks], [read(look) for look in looks], name, label, order)
        axis.set_title(title, fontsize=10, loc="left")
        if "log" in title:
            axis.set_yscale("log")
    for axis in axes[1]:
        axis.set_xlabel("minutes")
    axes[0][1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _line(axis: Axes, x: Sequence[float], y: Sequence[float], name: str, label: str, order: Order, **more: Any) -> None:
    width, above = (2.6, 3) if name == "ours" else (1.3, 2)
    axis.plot(x, y, color=_colours(order)[name], linewidth=width, zorder=above, label=label, markersize=4, **more)


def _smooth(curve: Sequence[int], width: int = 3) -> list[float]:
    """Average over ``width`` seconds: one without a task would be a hole in a logarithmic plot."""
    return [max(1.0, sum(part) / len(part)) for start in range(len(curve)) if (part := curve[start : start + width])]
