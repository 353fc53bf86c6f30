"""A chord of a hundred: from the end of its last part to the start of its body."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, middle, number, ratios, spread, values
from benchmarks.processes import call
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "chord"
REPETITIONS = 3
QUICK_REPETITIONS = 1

_PARTS = 100


def variants(bench: Bench) -> list[str]:
    """Peer, pool."""
    found = [f"{name} solo" for name in bench.present("ours", "redis", "stock")]
    return found + [f"{name} prefork" for name in bench.present("ours", "redis")]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Milliseconds of several chords, one after the other."""
    name, pool = variant.split()
    count = int(bench.pick(1, 3) if name == "stock" else bench.pick(6, 20))
    concurrency = 1 if pool == "solo" else 2
    with bench.peers[name].fresh() as broker, Worker(broker, late=True, pool=pool, concurrency=concurrency) as worker:
        took = call("benchmarks.asker", "chords", count, _PARTS, variables=broker.variables)
        said = worker.log_text()[-500:]
    gaps, wholes = zip(*took, strict=True)
    return {
        "gap": median(gaps),
        "worst_gap": max(gaps),
        "whole": median(wholes),
        "samples": [[round(gap, 1), round(whole, 1)] for gap, whole in took],
        "said": said,
    }


def rows(results: Results) -> list[Row]:
    """Beside the peers."""
    found = []
    for pool in ("solo", "prefork"):
        for key, what, target in (
            ("gap", "last part to body", "50 ms"),
            ("worst_gap", "last part to body, the longest", ""),
            ("whole", "the whole with get()", ""),
        ):
            peers = [number(middle(results, f"{peer} {pool}", key), " ms", 1) for peer in ("ours", "redis", "stock")]
            ratio = ratios(results, f"ours {pool}", f"redis {pool}", key)
            found.append(
                Row(
                    f"chord of {_PARTS}, {what}, {pool}, ours / Redis / stock",
                    target,
                    " / ".join(peers),
                    f"{median(ratio):.2f} x" if ratio else "-",
                    spread(values(results, f"ours {pool}", key), 1),
                )
            )
    return found
