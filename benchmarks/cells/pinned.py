"""Throughput while somebody's forgotten transaction keeps PostgreSQL from removing dead rows."""

from __future__ import annotations

from contextlib import closing
from statistics import mean, median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, comparison, spread
from benchmarks.journal import curve
from benchmarks.relations import pin, sizes
from benchmarks.samples import Results
from benchmarks.steady import Feeder, window
from benchmarks.worker import Worker

NAME = "pinned"
REPETITIONS = 2
QUICK_REPETITIONS = 1

_BACKLOG = 3_000


def variants(bench: Bench) -> list[str]:
    """Clean and pinned, one after the other."""
    modes = ["late"] if bench.quick else ["late", "early"]
    ours = [f"ours {mode} {state}" for mode in modes for state in ("clean", "pinned")] if "ours" in bench.peers else []
    return ours + [f"stock late {state}" for state in ("clean", "pinned")]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """The rate over the whole time, of each second, and of the last quarter."""
    name, mode, state = variant.split()
    seconds = bench.pick(30, 180) if name == "ours" else bench.pick(15, 60)
    peer = bench.postgres_peers[name]
    with peer.fresh() as broker, closing(broker.connect()) as holder, closing(broker.connect()) as looking:
        if state == "pinned":
            pin(holder)
        feeder = Feeder(broker.fill, _BACKLOG, broker.refill)
        feeder.fill()
        with Worker(broker, late=mode == "late", capacity=2_000_000, ready=False) as worker:
            worker.run_until(1, 60)
            meter = bench.meter(peer, worker.pid)
            feeder.feed(worker, seconds)
            spent = meter.stop()
            records = list(worker.journal.records)
            dead = sizes(looking, ["kombu_message"])
        over_time = curve(records)
        return {
            **window(records, spent),
            "last_quarter": mean(over_time[-max(1, len(over_time) // 4) :]) if over_time else 0.0,
            "curve": over_time,
            "cpu": spent,
            **dead,
        }


def rows(results: Results) -> list[Row]:
    """Pinned against clean, whole and at the end."""
    found = []
    for who in ("ours late", "ours early", "stock late"):
        if f"{who} pinned" not in results:
            continue
        target = "0.9 x" if who.startswith("ours") else ""
        for key, when in (("rate", "the whole time"), ("last_quarter", "the last quarter")):
            figure = f"tasks/s with xmin pinned against clean, {who}, {when}"
            found.append(comparison(figure, target, results, f"{who} pinned", f"{who} clean", key))
        found.append(
            comparison(
                f"CPU us a task of worker and server, pinned against clean, {who}",
                "",
                results,
                f"{who} pinned",
                f"{who} clean",
                "cpu_us",
            )
        )
        curves = [sample["curve"] for sample in results.get(f"{who} pinned", [])]
        if curves:
            tenths = _tenths(curves)
            shown = " ".join(f"{value:.0f}" for value in tenths)
            found.append(Row(f"the curve in tenths of the time, {who}, pinned", "", shown, "", spread(tenths, 0)))
    return found


def _tenths(curves: list[list[int]]) -> list[float]:
    found = []
    for tenth in range(10):
        parts = [
            one[len(one) * tenth // 10 : max(len(one) * (tenth + 1) // 10, len(one) * tenth // 10 + 1)]
            for one in curves
        ]
        found.append(median(mean(part) for part in parts if part))
    return found
