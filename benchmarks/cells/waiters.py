"""A thousand threads of one process that wait for results."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.bench import Bench
from benchmarks.cells.connections import sockets
from benchmarks.figures import Row, middle, number, values
from benchmarks.processes import answer, start
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "waiters"
REPETITIONS = 2
QUICK_REPETITIONS = 1

_THREADS = 1000


def variants(bench: Bench) -> list[str]:
    """Those whose ``get()`` does not poll."""
    return bench.present("ours", "redis")


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """The most connections of the process, and seconds from the first publish until the last thread has its result."""
    peer = bench.peers[variant]
    with peer.fresh() as broker, Worker(broker, late=True) as worker:
        port = bench.cluster.port if variant == "ours" else broker.client.connection_pool.connection_kwargs["port"]
        arguments = ["-m", "benchmarks.asker", "waiters", str(_THREADS), "1"]
        process = start(arguments, broker.variables, stdout=-1, stderr=-1)
        most = 0
        while process.poll() is None:
            most = max(most, sockets(process.pid, port))
            time.sleep(0.1)
        return {"most": most, **answer(process), "said": worker.log_text()[-500:]}


def rows(results: Results) -> list[Row]:
    """The budget."""
    found = []
    for who in ("ours", "redis"):
        if who in results:
            failed = sum(len(sample["failed"]) for sample in results[who])
            shown = f"{max(values(results, who, 'most')):.0f}" + (f", {failed} threads failed" if failed else "")
            figure = f"connections of {_THREADS:,} waiting threads and their publisher, {who}"
            # One to listen, one to read, and one to publish at the same moment.
            found.append(Row(figure, "3" if who == "ours" else "", shown))
    shown = " / ".join(number(middle(results, who, "whole_s"), " s", 2) for who in ("ours", "redis"))
    found.append(Row(f"{_THREADS:,} tasks for as many waiting threads, ours / Redis", "", shown))
    return found
