"""The page of ``./dev bench scale`` and the tables of the sizing guide, filled into their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks import about, scale_sizing
from benchmarks.cells import (
    scale_backlog,
    scale_connections,
    scale_payload,
    scale_pools,
    scale_publishers,
    scale_queues,
    scale_workers,
)
from benchmarks.figures import middle, shown
from benchmarks.report import fill
from benchmarks.samples import Samples
from environment.sources import CHECKOUT

#: The project's own page, and its guide with the operator's tables.
OWN = CHECKOUT / "docs" / "benchmarks" / "scale.md"
GUIDE = CHECKOUT / "docs" / "guides" / "sizing.md"

#: A column: its head, the variant with ``{}`` for the row's count, the keys of its figures, and a factor for them.
Column = tuple[str, str, Sequence[str], float]


def write(folder: Path, samples: Samples) -> Path:
    """Write the page beside the folder of the samples, its plots, and for the project's own samples the guide's tables;
    return the page."""
    # Without a page to write, matplotlib need not be there.
    from benchmarks import scale_plots

    page = folder.with_suffix(".md")
    drawn = scale_plots.write(folder, samples)
    made = texts(samples)
    fill(page, {**made, **{f"plot {name}": content for name, content in drawn.items()}}, OWN)
    if page.resolve() == OWN:
        fill(GUIDE, made)
    return page


def texts(samples: Samples) -> dict[str, str]:
    """Return the contents of the places of both pages, except the plots."""
    known = about.read(samples.folder)
    figures = scale_sizing.Figures(samples, known.get("machine", {}).get("processors", 1))
    return {"about": _about(samples), "ends": _ends(figures), **_tables(samples), **_guide(samples, figures)}


def _tables(samples: Samples) -> dict[str, str]:
    return {
        "workers": _table(
            samples,
            "workers",
            "workers",
            scale_workers.COUNTS,
            [
                ("idle: operations/s", "{}", ["idle_operations"], 1),
                ("server, % of a core", "{}", ["idle_server_cores"], 100),
                ("all workers, % of a core", "{}", ["idle_worker_cores"], 100),
                ("connections, at work", "{}", ["busy_connections"], 1),
                ("ms to start, p50 / p99", "{}", ["p50", "p99"], 1),
                ("at work: tasks/s", "{}", ["rate"], 1),
                ("worker / server µs each", "{}", ["worker_us", "server_us"], 1),
            ],
        ),
        "publishers": _table(
            samples,
            "publishers",
            "publishers",
            scale_publishers.COUNTS,
            [
                ("publishes/s", "{} alone", ["rate"], 1),
                ("ms of one, p50 / p99", "{} alone", ["p50", "p99"], 1),
                ("server µs", "{} alone", ["server_us"], 1),
                ("beside 8 idle workers: publishes/s", "{} woken", ["rate"], 1),
                ("ms of one, p50 / p99", "{} woken", ["p50", "p99"], 1),
                ("server / workers µs", "{} woken", ["server_us", "workers_us"], 1),
            ],
        ),
        "notify": _table(
            samples,
            "notify",
            "clients",
            scale_publishers.CLIENTS,
            [
                ("a row, commits/s", "{} plain", ["tps"], 1),
                ("a row and NOTIFY, 2 listeners", "{} notify", ["tps"], 1),
                ("100 listeners", "{} heard", ["tps"], 1),
                ("server µs of NOTIFY, 2 listeners", "{} notify", ["server_us"], 1),
            ],
        ),
        "connections": _table(
            samples,
            "connections",
            "connections",
            scale_connections.COUNTS,
            [
                ("all insert, commits/s", "active {}", ["tps"], 1),
                ("idle beside 4 that insert, commits/s", "idle {}", ["tps"], 1),
                ("ms of a new one", "idle {}", ["connect_ms"], 1),
                ("server's private memory of an idle one, MB", "idle {}", ["connection_mb"], 1),
            ],
        ),
        "queues": _table(
            samples,
            "queues",
            "queues",
            sorted({*scale_queues.IN_DATABASE, *scale_queues.IN_WORKER}),
            [
                ("in the database: tasks/s of a worker on one", "database {}", ["rate"], 1),
                ("publishes/s", "database {}", ["publishes"], 1),
                ("overview / scrape ms", "database {}", ["overview_ms", "scrape_ms"], 1),
                ("consumed by one worker: tasks/s", "worker {}", ["rate"], 1),
                ("worker + server µs", "worker {}", ["worker_us", "server_us"], 1),
                ("ms to start, p50 / p99", "worker {}", ["p50", "p99"], 1),
            ],
        ),
        "tenants": _table(
            samples,
            "tenants",
            "tenants",
            scale_queues.TENANTS,
            [
                ("tasks/s", "{}", ["rate"], 1),
                ("worker + server µs", "{}", ["worker_us", "server_us"], 1),
                ("overview / scrape ms", "{}", ["overview_ms", "scrape_ms"], 1),
                ("count by tenant, ms", "{}", ["tenants_ms"], 1),
            ],
        ),
        "backlog": _table(
            samples,
            "backlog",
            "waiting",
            scale_backlog.LENGTHS,
            [
                ("tasks/s of one worker", "{}", ["rate"], 1),
                ("worker + server µs", "{}", ["worker_us", "server_us"], 1),
                ("publishes/s", "{}", ["publishes"], 1),
                ("overview / scrape ms", "{}", ["overview_ms", "scrape_ms"], 1),
                ("bytes of each", "{}", ["message_bytes"], 1),
            ],
        ),
    }


def _guide(samples: Samples, figures: scale_sizing.Figures) -> dict[str, str]:
    columns: list[Column] = [
        ("WAL: publish", "{} results off", ["publish_wal"], 1),
        ("run without result", "{} plain off", ["run_wal"], 1),
        ("run with result", "{} results off", ["run_wal"], 1),
        ("publish and run after a checkpoint, at most", "{} results on", ["publish_wal", "run_wal"], 1),
        ("disk: waiting message", "{} results off", ["message_bytes"], 1),
        ("kept result", "{} results off", ["result_bytes"], 1),
        ("transactions: publish / run", "{} results off", ["publish_transactions", "run_transactions"], 1),
    ]
    memory: list[Column] = [
        ("main process, MB", "{}", ["main_uss_mb"], 1),
        ("each child, MB", "{}", ["child_uss_mb"], 1),
        ("connections", "{}", ["connections"], 1),
        ("server, MB for each connection", "{}", ["connection_mb"], 1),
    ]
    rows = list(scale_sizing.example_rows(figures))
    head = [
        f"{one.name}: {one.workers} workers of {one.children} children, {one.rate:,} tasks/s, {one.beats} "
        f"beat{'s' * (one.beats > 1)}, {one.web} web processes"
        for one in scale_sizing.EXAMPLES
    ]
    examples = [_line(["", *head]), _rule(len(head) + 1)]
    examples += [_line([label, *(text(one) for one in scale_sizing.EXAMPLES)]) for label, text in rows]
    return {
        "payload": _table(samples, "payload", "argument, bytes", scale_payload.SIZES, columns),
        "pools": _table(
            samples,
            "pools",
            "pool",
            [f"{pool}" for pool in scale_pools.POOLS],
            memory,
            labels={pool: f"`{pool}`, {count}" for pool, count in scale_pools.POOLS.items()},
        ),
        "examples": "\n".join(examples),
    }


def _ends(figures: scale_sizing.Figures) -> str:
    lines = [_line(["what ends", "tasks/s", "found by"]), "|---|---:|---|"]
    lines += [_line([what, shown(rate), how]) for what, rate, how in scale_sizing.task_rates(figures)]
    return "\n".join(lines)


def _table(
    samples: Samples,
    cell: str,
    name: str,
    counts: Sequence[int | str] | Mapping[int, int],
    columns: Sequence[Column],
    labels: Mapping[str, str] | None = None,
) -> str:
    """Return a table with a row for each count that was measured."""
    results = samples.of(cell)
    lines = [_line([name, *(head for head, *_ in columns)]), _rule(len(columns) + 1)]
    for count in counts:
        cells = []
        for _, variant, keys, factor in columns:
            found = [middle(results, variant.format(count), key) for key in keys]
            cells.append(" / ".join(shown(None if one is None else one * factor) for one in found))
        if any(cell.strip("-/ ") for cell in cells):
            label = f"{count:,}" if isinstance(count, int) else (labels or {}).get(count, count)
            lines.append(_line([label, *cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|---" + "|---:" * (columns - 1) + "|"


def _about(samples: Samples) -> str:
    """Return what the run was made on, and how much of it other processes used."""
    known = about.read(samples.folder)
    if not known:
        return ""
    machine, system = known["machine"], known["systems"]["ours"]
    lines = [line for path in sorted(samples.folder.glob("*.jsonl")) for line in samples.lines(path.stem)]
    made = sorted(line["made_at"][:16].replace("T", " ") for line in lines)
    loads = [line["others_before"] for line in lines]
    versions = ", ".join(f"{what} {version}" for what, version in system["versions"].items())
    changed = {**known["postgres"], "max_connections": scale_connections.MAX_CONNECTIONS}
    settings = ", ".join(f"`{name} = {value}`" for name, value in changed.items() if "log" not in name)
    when = f"{made[0]} to {made[-1]} UTC" if made else "never"
    busy = ""
    if loads and median(loads) >= 0.1:
        busy = (
            f" **The machine was busy**: before the samples, other programs used {median(loads):.0%} of its processors "
            "(median). Trust bytes and connections; the rates are too low, and the processor time of a task too high."
        )
    return (
        f"{machine['processors']} x {machine['processor']}, {machine['memory_gb']} GB, {machine['system']}, Python "
        f"{machine['python']}, {versions}; workers, server and publishers on the same processors; measured {when}. "
        f"PostgreSQL: {settings}.{busy}"
    )
