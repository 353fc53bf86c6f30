"""``get()`` of a group of a thousand."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, middle, number, ratios, spread
from benchmarks.processes import call
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "get_group"
REPETITIONS = 5
QUICK_REPETITIONS = 2

_PARTS = 1000


def variants(bench: Bench) -> list[str]:
    """Those whose ``get()`` does not poll."""
    return bench.present("ours", "redis")


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Milliseconds of ``get()`` after everything was published, and of the whole."""
    with bench.peers[variant].fresh() as broker, Worker(broker, late=True) as worker:
        took = call("benchmarks.asker", "groups", int(bench.pick(3, 8)), _PARTS, variables=broker.variables)
        said = worker.log_text()[-500:]
    gets, wholes = zip(*took, strict=True)
    return {
        "get": median(gets),
        "whole": median(wholes),
        "samples": [[round(get, 1), round(whole, 1)] for get, whole in took],
        "said": said,
    }


def rows(results: Results) -> list[Row]:
    """Ours beside Redis: more than 1 x is slower."""
    found = []
    for key, what in (("get", "get()"), ("whole", "apply_async().get()")):
        ratio = ratios(results, "ours", "redis", key)
        shown = [number(middle(results, peer, key), " ms") for peer in ("ours", "redis")]
        found.append(
            Row(
                f"group of {_PARTS:,}, {what}, ours / Redis",
                "1 x",
                " / ".join(shown),
                f"{median(ratio):.2f} x" if ratio else "-",
                spread(ratio),
            )
        )
    return found
