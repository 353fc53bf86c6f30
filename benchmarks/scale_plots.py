"""Plots of ``./dev bench scale``, as SVG: one line for each thing that is counted, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.cells import (
    scale_backlog,
    scale_connections,
    scale_payload,
    scale_publishers,
    scale_queues,
    scale_workers,
)
from benchmarks.figures import middle
from benchmarks.plots import _OTHERS, _OURS, _STYLE
from benchmarks.samples import Samples


class Curve(NamedTuple):
    """One line of a panel.

    Attributes:
        label: in the legend.
        cell: whose samples it shows.
        variant: with ``{}`` for the number on the axis below.
        key: of the figure.
    """

    label: str
    cell: str
    variant: str
    key: str


class Panel(NamedTuple):
    """One diagram.

    Attributes:
        title: with what the axis at the left counts.
        below: what the axis below counts.
        counts: on that axis.
        curves: the first has the project's own color.
        log: whether the axis at the left is logarithmic.
    """

    title: str
    below: str
    counts: Sequence[int]
    curves: Sequence[Curve]
    log: bool = True


_WORKERS = scale_workers.COUNTS
_PUBLISHERS = scale_publishers.COUNTS
#: The argument of a task that has no padding, for a logarithmic axis.
_SIZES = tuple(size for size in scale_payload.SIZES if size)


def _looks(below: str, counts: Sequence[int], cell: str, variant: str) -> Panel:
    """How long an operator waits for an overview."""
    return Panel("ms of one look", below, counts, [
        Curve("overview of the queue tool", cell, variant, "overview_ms"),
        Curve("scrape of the metrics", cell, variant, "scrape_ms"),
    ])  # fmt: skip


#: Name of the file → its panels.
PLOTS: dict[str, Sequence[Panel]] = {
    "workers": [
        Panel(
            "idle: processor cores",
            "workers",
            _WORKERS,
            [
                Curve("server", "workers", "{}", "idle_server_cores"),
                Curve("all workers together", "workers", "{}", "idle_worker_cores"),
            ],
        ),
        Panel("ms from publish to start", "idle workers", _WORKERS, [
            Curve("p50", "workers", "{}", "p50"), Curve("p99", "workers", "{}", "p99")
        ]),
        Panel("at work: tasks/s", "workers", _WORKERS, [Curve("with results", "workers", "{}", "rate")], log=False),
    ],
    "publishers": [
        Panel(
            "publishes/s, one by one",
            "publishers",
            _PUBLISHERS,
            [
                Curve("no worker", "publishers", "{} alone", "rate"),
                Curve("8 idle workers", "publishers", "{} woken", "rate"),
            ],
            log=False,
        ),
        Panel(
            "commits/s of pgbench",
            "clients",
            scale_publishers.CLIENTS,
            [
                Curve("a row", "notify", "{} plain", "tps"),
                Curve("a row and NOTIFY, 2 listeners", "notify", "{} notify", "tps"),
                Curve("the same, 100 listeners", "notify", "{} heard", "tps"),
            ],
        ),
    ],
    "connections": [
        Panel(
            "commits/s of pgbench",
            "connections",
            scale_connections.COUNTS,
            [
                Curve("all of them insert", "connections", "active {}", "tps"),
                Curve("4 insert beside so many idle ones", "connections", "idle {}", "tps"),
            ],
            log=False,
        ),
        Panel(
            "connections of a fleet",
            "workers",
            _WORKERS,
            [Curve("connections", "workers", "{}", "busy_connections")],
        ),
    ],
    "queues": [
        Panel(
            "tasks/s of one worker",
            "queues, tenants",
            sorted({*scale_queues.TENANTS, *scale_queues.IN_WORKER}),
            [
                Curve("queues in the database", "queues", "database {}", "rate"),
                Curve("queues that the worker consumes", "queues", "worker {}", "rate"),
                Curve("tenants in one queue", "tenants", "{}", "rate"),
            ],
            log=False,
        ),
        _looks("queues in the database", scale_queues.IN_DATABASE, "queues", "database {}"),
    ],
    "backlog": [
        Panel(
            "a second",
            "messages that wait",
            scale_backlog.LENGTHS,
            [
                Curve("tasks, one worker", "backlog", "{}", "rate"),
                Curve("publishes, one by one", "backlog", "{}", "publishes"),
            ],
            log=False,
        ),
        _looks("messages that wait", scale_backlog.LENGTHS, "backlog", "{}"),
    ],
    "payload": [
        Panel(
            "bytes for each task",
            "bytes of its argument",
            _SIZES,
            [
                Curve("WAL of its publish", "payload", "{} results off", "publish_wal"),
                Curve("WAL of its run", "payload", "{} results off", "run_wal"),
                Curve("disk while it waits", "payload", "{} results off", "message_bytes"),
            ],
        ),
        Panel("publishes/s, one by one", "bytes of its argument", _SIZES, [
            Curve("one publisher", "payload", "{} results off", "publishes")
        ]),
    ],
}  # fmt: skip


def write(folder: Path, samples: Samples) -> dict[str, str]:
    """Write the plots that have samples beside the page; return their Markdown by name, empty without samples."""
    pyplot.rcParams.update(_STYLE)
    found = {}
    for name, panels in PLOTS.items():
        figure, axes = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.6), squeeze=False)
        drawn = [_draw(axis, panel, samples) for axis, panel in zip(axes[0], panels, strict=True)]
        figure.tight_layout()
        if any(drawn):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
        pyplot.close(figure)
        found[name] = f"![{name}]({folder.name}/{name}.svg)" if any(drawn) else ""
    return found


def _draw(axis: Axes, panel: Panel, samples: Samples) -> bool:
    """Draw a panel; return whether there was anything to draw."""
    some = False
    for curve, color in zip(panel.curves, (_OURS, *_OTHERS), strict=False):
        results = samples.of(curve.cell)
        points: list[tuple[int, Any]] = [
            (count, found)
            for count in panel.counts
            if (found := middle(results, curve.variant.format(count), curve.key))
        ]
        if points:
            some = True
            axis.plot(*zip(*points, strict=True), color=color, label=curve.label, marker="o", markersize=4)
    axis.set_xscale("log")
    if panel.log:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_xlabel(panel.below)
    axis.set_title(panel.title, fontsize=10, loc="left")
    if some and len(panel.curves) > 1:
        axis.legend(fontsize=8, frameon=False)
    return some
