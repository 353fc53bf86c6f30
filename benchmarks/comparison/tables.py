"""Samples as Markdown tables: medians, with the lowest and the highest where there are several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.comparison.cells.ceiling import CLIENTS
from benchmarks.comparison.cells.latency import STEADY
from benchmarks.comparison.field import CEILINGS
from benchmarks.figures import middle, values
from benchmarks.samples import Results, Samples

#: (system, label) in the order of the rows.
Order = Sequence[tuple[str, str]]


def shown(number: float | None) -> str:
    """A number for people: three digits that count, a dash where there is none."""
    if number is None:
        return "-"
    if number >= 100:
        return f"{number:,.0f}"
    if number == 0:
        return "0"
    return f"{number:.1f}" if number >= 1 else f"{number:.2f}"


def with_spread(results: Results, variant: str, key: str) -> str:
    """The median, and the lowest and the highest of several samples."""
    found = values(results, variant, key)
    if len(found) < 2:
        return shown(middle(results, variant, key))
    return f"{shown(median(found))} <sub>{shown(min(found))} … {shown(max(found))}</sub>"


def table(head: Sequence[str], order: Order, cells: Callable[[str], Sequence[str]], says: slice = slice(None)) -> str:
    """A row for each system that has a figure, in those of its cells where a figure would be."""
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for name, label in order:
        row = list(cells(name))
        if any(cell.strip("- /·→") for cell in row[says]):
            bold = f"**{label}**" if name == "ours" else label
            lines.append(f"| {' | '.join([bold, *row])} |")
    return "\n".join(lines)


def all_tables(samples: Samples, order: Order, about: dict[str, Any]) -> dict[str, str]:
    """Every table, by the name of its place on the page."""
    enqueue, drain, latency = (samples.of(cell) for cell in ("enqueue", "drain", "latency"))
    systems = about.get("systems", {})

    def durable(name: str) -> str:
        return str(systems.get(name, {}).get("durable", "")).partition(":")[0]

    def latencies(name: str, load: str) -> str:
        p50, p99 = (middle(latency, f"{name} {load}", key) for key in ("p50", "p99"))
        return f"{shown(p50)} / {shown(p99)}"

    found = {
        "glance": table(
            ["", "durable", "publish/s", "in bulk/s", "tasks/s", "with results/s", "ms to start, idle p50 / p99"],
            [(name, label) for name, label in order if name not in CEILINGS],
            lambda name: [
                durable(name),
                shown(middle(enqueue, f"{name} one_by_one", "rate")),
                shown(middle(enqueue, f"{name} in_bulk", "rate")),
                shown(middle(drain, f"{name} 0ms plain", "rate")),
                shown(middle(drain, f"{name} 0ms results", "rate")),
                latencies(name, "idle"),
            ],
            says=slice(1, None),
        ),
        "enqueue": table(
            ["", "one by one/s", "in bulk/s", "publisher µs", "server µs", "server operations"],
            order,
            lambda name: [
                with_spread(enqueue, f"{name} one_by_one", "rate"),
                with_spread(enqueue, f"{name} in_bulk", "rate"),
                *(
                    shown(middle(enqueue, f"{name} one_by_one", key))
                    for key in ("client_us", "server_us", "operations")
                ),
            ],
        ),
        "drain": table(
            ["", "no-op/s", "1 ms/s", "10 ms/s", "no-op with result/s", "no-op, late ack/s"],
            order,
            lambda name: [
                with_spread(drain, f"{name} {kind}", "rate")
                for kind in ("0ms plain", "1ms plain", "10ms plain", "0ms results", "0ms late")
            ],
        ),
        "cost": table(
            [
                "",
                "worker µs",
                "server µs",
                "server operations",
                "with result: worker µs",
                "server µs",
                "server operations",
            ],
            order,
            lambda name: [
                shown(middle(drain, f"{name} 0ms {kept}", key))
                for kept in ("plain", "results")
                for key in ("worker_us", "server_us", "operations")
            ],
        ),
        "latency": table(
            [
                "",
                "idle: p50 / p99 ms",
                f"{STEADY} a second: p50 / p99 ms",
                "half load: p50 / p99 ms",
                "that load, tasks/s",
                "its publish, p50 ms",
            ],
            order,
            lambda name: [
                latencies(name, "idle"),
                latencies(name, STEADY),
                latencies(name, "half"),
                shown(middle(latency, f"{name} half", "load")),
                shown(middle(latency, f"{name} half", "call_p50")),
            ],
        ),
    }
    return {**found, **_more(samples, order)}


def _more(samples: Samples, order: Order) -> dict[str, str]:
    ceiling, chord, payload, workers = (samples.of(cell) for cell in ("ceiling", "chord", "payload", "workers"))
    idle, backlog, pinned = (samples.of(cell) for cell in ("idle", "backlog", "pinned"))
    sizes, lengths = (100, 10_000, 1_000_000), (1_000, 10_000, 100_000, 1_000_000)
    clients = [(f"pgbench {count}", f"pgbench, {count} connection{'s' * (count > 1)}") for count in CLIENTS]
    return {
        "ceiling": table(
            ["", "inserts/s", "takes/s"],
            clients,
            lambda name: [with_spread(ceiling, name, key) for key in ("insert_tps", "claim_delete_tps")],
        ),
        "chord": table(
            ["", "last part to body, ms", "the longest", "the whole, ms"],
            order,
            lambda name: [with_spread(chord, f"{name} solo", key) for key in ("gap", "worst_gap", "whole")],
        ),
        "payload": table(
            ["", *(f"{size} publish/s · done/s" for size in ("100 B", "10 KB", "1 MB"))],
            order,
            lambda name: [
                " · ".join(shown(middle(payload, f"{name} {size}", key)) for key in ("publish_rate", "drain_rate"))
                for size in sizes
            ],
        ),
        "workers": table(
            ["", "1 process", "2", "4", "prefork, 2 children"],
            order,
            lambda name: [shown(middle(workers, f"{name} {how}", "rate")) for how in ("1", "2", "4", "prefork")],
        ),
        "idle": table(
            ["", "server operations/s", "worker ms/s", "server ms/s", "worker RSS, MB"],
            order,
            lambda name: [
                shown(middle(idle, name, key)) for key in ("operations_s", "worker_ms", "server_ms", "rss_mb")
            ],
        ),
        "backlog": table(
            ["", *(f"{length:,}" for length in lengths)],
            order,
            lambda name: [shown(middle(backlog, f"{name} {length}", "rate")) for length in lengths],
        ),
        "pinned": table(
            ["", "clean, tasks/s", "pinned, 3 min", "its last quarter", "dead rows", "tables and indexes, MB"],
            order,
            lambda name: [
                shown(middle(pinned, f"{name} clean", "rate")),
                shown(middle(pinned, f"{name} pinned", "rate")),
                shown(middle(pinned, f"{name} pinned", "last_quarter")),
                shown(middle(pinned, f"{name} pinned", "dead_tuples")),
                _megabytes(pinned, f"{name} pinned"),
            ],
        ),
        "soak": _soak(samples, order),
    }


def _megabytes(results: Results, variant: str) -> str:
    table_bytes, index_bytes = (middle(results, variant, key) for key in ("table_bytes", "index_bytes"))
    return shown(None if table_bytes is None or index_bytes is None else (table_bytes + index_bytes) / 1e6)


def _soak(samples: Samples, order: Order) -> str:
    """The first and the last fifth of the time."""
    together = samples.of("soak").get("together", [])
    lanes = together[-1] if together else {}

    def cells(name: str) -> list[str]:
        if name not in lanes:
            return []
        looks = lanes[name]["over_time"]
        fifth = max(1, len(looks) // 5)

        def change(read: Callable[[dict[str, Any]], float | None]) -> str:
            ends = [
                [found for look in part if (found := read(look)) is not None]
                for part in (looks[:fifth], looks[-fifth:])
            ]
            return " → ".join(shown(median(end)) if end else "-" for end in ends)

        return [
            change(lambda look: look["p50"]),
            change(lambda look: look["p99"]),
            change(lambda look: (look["table_bytes"] + look["index_bytes"]) / 1e6),
            change(lambda look: look["dead_tuples"]),
            change(lambda look: look["uss_mb"]),
            str(lanes[name]["missing"]),
        ]

    return table(
        ["", "p50, ms", "p99, ms", "tables and indexes, MB", "dead rows", "worker USS, MB", "lost"], order, cells
    )
