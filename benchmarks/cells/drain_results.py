"""How fast one worker empties a queue of tasks that have results."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, comparison, middle, number, ratios, spread, values
from benchmarks.journal import rate
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "drain_results"
REPETITIONS = 7
QUICK_REPETITIONS = 2

#: Messages to start with: more than any peer takes in the time it has.
_FILL = {"ours": 40_000, "redis": 15_000, "stock": 1_500}


def variants(bench: Bench) -> list[str]:
    """Peer, ack mode."""
    return [f"{peer} {mode}" for mode in ("early", "late") for peer in bench.present("ours", "redis", "stock")]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Tasks in a second by the worker's own clock, and whether their results are there."""
    name, mode = variant.split()
    seconds = bench.pick(2.5, 6)
    count = int(_FILL[name] * seconds / 6)
    peer = bench.peers[name]
    with peer.fresh() as broker:
        broker.fill(1, count)
        with Worker(broker, late=mode == "late", capacity=count, ready=False) as worker:
            worker.run_until(1, 120)
            meter = bench.meter(peer, worker.pid)
            seen = worker.journal.refresh()
            reached = worker.run_until(count, seconds)
            # Results that are stored by another thread must not fall behind the tasks.
            stored = broker.count_results() if name in bench.postgres_peers else None
            spent = meter.stop()
            metered = max(1, reached - seen)
            measured = list(worker.journal.records)
        worker.journal.refresh()
        distinct = len({task for task, _, _ in worker.journal.records})
        left = broker.count() if name == "ours" else None
        return {
            "rate": rate(measured),
            "tasks": len(measured),
            "behind": None if stored is None else max(0, reached - stored),
            "unstored": distinct - broker.count_results() if name in bench.postgres_peers else None,
            "unaccounted": None if left is None else count - distinct - left,
            "worker_us": spent["worker"] / metered * 1e6,
            "server_us": spent["server"] / metered * 1e6,
            "cpu": spent,
            "said": worker.last_words[-500:],
        }


def rows(results: Results) -> list[Row]:
    """Against each peer, what a task costs, and what was lost."""
    found = []
    for mode in ("early", "late"):
        ours = f"ours {mode}"
        if ours not in results:
            continue
        for other, label, target in (("redis", "Redis", "2.5 x"), ("stock", "stock", "20 x")):
            figure = f"tasks/s with a result, {mode} ack, against {label}"
            found.append(comparison(figure, target, results, ours, f"{other} {mode}"))
        for key, where in (("worker_us", "worker"), ("server_us", "server")):
            figure = f"CPU us a task with a result in the {where}, {mode} ack, ours / Redis"
            shown = " / ".join(number(middle(results, f"{who} {mode}", key)) for who in ("ours", "redis"))
            found.append(Row(figure, "", shown, "", spread(ratios(results, ours, f"redis {mode}", key))))
        most = {key: max(values(results, ours, key), default=0) for key in ("behind", "unstored", "unaccounted")}
        shown = ", ".join(f"{key} {value:.0f}" for key, value in most.items())
        found.append(Row(f"results at the end, {mode} ack, ours", "0 unstored", shown))
    return found
