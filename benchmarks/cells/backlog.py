"""Throughput with a thousand, a hundred thousand and a million messages waiting."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, comparison
from benchmarks.samples import Results
from benchmarks.steady import Feeder, window
from benchmarks.worker import Worker

NAME = "backlog"
REPETITIONS = 3
QUICK_REPETITIONS = 1

_LENGTHS = (1_000, 100_000, 1_000_000)


def variants(bench: Bench) -> list[str]:
    """Our transport, each length; the peers at the shortest and the longest in a full run."""
    found = [f"ours late {length}" for length in _LENGTHS] if "ours" in bench.peers else []
    if not bench.quick:
        found += [f"{name} late {length}" for length in _LENGTHS[:2] for name in bench.present("redis", "stock")]
        found += [f"redis late {_LENGTHS[2]}"] if "redis" in bench.peers else []
    return found or [f"stock late {length}" for length in _LENGTHS[:2]]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Tasks in a second while the queue keeps its length."""
    name, mode, length = variant.split()
    seconds = bench.pick(6, 15)
    peer = bench.peers[name]
    with peer.fresh() as broker:
        feeder = Feeder(broker.fill, int(length), broker.refill)
        feeder.fill()
        with Worker(broker, late=mode == "late", capacity=500_000, ready=False) as worker:
            worker.run_until(1, 120)
            meter = bench.meter(peer, worker.pid)
            feeder.feed(worker, seconds)
            spent = meter.stop()
            return {**window(worker.journal.records, spent), "cpu": spent, "said": worker.log_text()[-500:]}


def rows(results: Results) -> list[Row]:
    """Against the shortest."""
    rates = [
        comparison(
            f"tasks/s with a backlog of {length:,} against 1,000, {who}",
            "0.9 x" if who == "ours" and length == _LENGTHS[-1] else "",
            results,
            f"{who} late {length}",
            f"{who} late {_LENGTHS[0]}",
        )
        for who in ("ours", "redis", "stock")
        for length in _LENGTHS[1:]
        if f"{who} late {length}" in results
    ]
    costs = [
        comparison(
            f"CPU us a task of worker and server with {length:,} against 1,000, {who}",
            "",
            results,
            f"{who} late {length}",
            f"{who} late {_LENGTHS[0]}",
            "cpu_us",
        )
        for who in ("ours", "redis", "stock")
        for length in _LENGTHS[1:]
        if f"{who} late {length}" in results
    ]
    return rates + costs
