"""From the call of ``apply_async`` to the answer of ``get()``, on a worker with nothing else to do."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, middle, number, percentile, ratios, spread, values
from benchmarks.processes import call
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "get"
REPETITIONS = 5
QUICK_REPETITIONS = 2


def variants(bench: Bench) -> list[str]:
    """Peer, pool; the modes of acknowledging differ in ``drain_results``."""
    found = [f"{name} solo" for name in bench.present("ours", "redis", "stock")]
    return found + [f"{name} prefork" for name in bench.present("ours", "redis")]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Milliseconds, with pauses from 10 to 60 ms."""
    name, pool = variant.split()
    count = int(bench.pick(3, 12) if name == "stock" else bench.pick(50, 150))
    with bench.peers[name].fresh() as broker, Worker(broker, late=True, pool=pool) as worker:
        took = call("benchmarks.asker", "gets", count, 0.01, 0.06, len(variant), variables=broker.variables)
        said = worker.log_text()[-500:]
    return {
        "p50": percentile(took, 0.5),
        "p99": percentile(took, 0.99),
        "worst": max(took),
        "samples": [round(one, 2) for one in took],
        "said": said,
    }


def rows(results: Results) -> list[Row]:
    """p50 and p99 beside those of the peers."""
    found = []
    for pool, targets in (("solo", {"p50": "10 ms"}), ("prefork", {})):
        ours = f"ours {pool}"
        for key in ("p50", "p99"):
            peers = [number(middle(results, f"{peer} {pool}", key), " ms", 1) for peer in ("ours", "redis", "stock")]
            ratio = ratios(results, ours, f"redis {pool}", key)
            found.append(
                Row(
                    f"apply_async().get(), idle {pool} worker, {key}, ours / Redis / stock",
                    targets.get(key, ""),
                    " / ".join(peers),
                    f"{sorted(ratio)[len(ratio) // 2]:.2f} x" if ratio else "-",
                    spread(values(results, ours, key), 1),
                )
            )
    return found
