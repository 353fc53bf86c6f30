"""How fast one worker empties a queue that was filled before it started."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, comparison, middle, number, ratios, spread
from benchmarks.journal import rate
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "drain"
REPETITIONS = 5
QUICK_REPETITIONS = 2

#: Messages to start with: more than any peer takes in the time it has.
_FILL = {"ours": 80_000, "redis": 40_000, "stock": 8_000, "memory": 150_000}
_MODES = [("early", 4), ("late", 4), ("early", 64), ("late", 64)]
_QUICK_FILL = {"ours": 20_000, "redis": 10_000, "stock": 2_000, "memory": 25_000}


def variants(bench: Bench) -> list[str]:
    """Peer, ack mode, prefetch multiplier."""
    peers = bench.present("ours", "redis", "stock", "memory")
    modes = [("early", 4), ("late", 4), ("late", 64)] if bench.quick else _MODES
    return [f"{peer} {mode} {prefetch}" for mode, prefetch in modes for peer in peers]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Tasks in a second by the worker's own clock, and who used the processors meanwhile."""
    name, mode, prefetch = variant.split()
    count = (_QUICK_FILL if bench.quick else _FILL)[name]
    limit_s = bench.pick(4, 15)
    peer = bench.peers[name]
    with peer.fresh() as broker:
        command = [sys.executable, "-m", "benchmarks.ceiling", str(count)] if name == "memory" else None
        if command is None:
            broker.fill(1, count)
        worker = Worker(
            broker, late=mode == "late", prefetch=int(prefetch), capacity=count, ready=False, command=command
        )
        with worker:
            worker.run_until(1, 120)
            meter = bench.meter(peer, worker.pid)
            seen = worker.journal.refresh()
            reached = worker.run_until(count, limit_s)
            spent = meter.stop()
            metered = max(1, reached - seen)
            measured = list(worker.journal.records)
        # It has returned what it held: nothing may be missing, nothing twice.
        worker.journal.refresh()
        records = worker.journal.records
        distinct = len({task for task, _, _ in records})
        left = broker.count() if name in bench.postgres_peers else None
        return {
            "rate": rate(measured),
            "tasks": len(measured),
            "duplicates": len(records) - distinct,
            "unaccounted": None if left is None or name == "stock" else count - distinct - left,
            "worker_us": spent["worker"] / metered * 1e6,
            "server_us": spent["server"] / metered * 1e6,
            "cpu": spent,
            "said": worker.last_words[-500:],
        }


def rows(results: Results) -> list[Row]:
    """Against each peer, and what a task costs."""
    found = []
    for prefetch, aimed in (("4", True), ("64", False)):
        for mode in ("early", "late"):
            ours = f"ours {mode} {prefetch}"
            if ours not in results:
                continue
            for other, label, target in (
                ("redis", "Redis", "3 x"),
                ("stock", "stock sqla", "12 x"),
                ("memory", "ceiling", "0.5 x"),
            ):
                figure = f"tasks/s, {mode} ack, prefetch {prefetch}, against {label}"
                found.append(comparison(figure, target if aimed else "", results, ours, f"{other} {mode} {prefetch}"))
            for key, where in (("worker_us", "worker"), ("server_us", "server")):
                figure = f"CPU us a task in the {where}, {mode} ack, prefetch {prefetch}, ours / Redis"
                redis = f"redis {mode} {prefetch}"
                found.append(
                    Row(
                        figure,
                        "",
                        f"{number(middle(results, ours, key))} / {number(middle(results, redis, key))}",
                        "",
                        spread(ratios(results, ours, redis, key)),
                    )
                )
    return found
