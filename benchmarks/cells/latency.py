"""From the call of ``apply_async`` to the start of the task, on a worker with nothing else to do."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, middle, number, percentile, ratios, spread, values
from benchmarks.processes import call
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "latency"
REPETITIONS = 3
QUICK_REPETITIONS = 1


def variants(bench: Bench) -> list[str]:
    """Peers that reach a worker in another process."""
    return [f"{name} {mode}" for mode in ("early", "late") for name in bench.present("ours", "redis", "stock")]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Milliseconds, with pauses from 20 ms to a good second: the longer the pause, the deeper the sleep."""
    name, mode = variant.split()
    count = int(bench.pick(15, 150) if name == "stock" else bench.pick(80, 400))
    longest_s = bench.pick(0.25, 0.6)
    with bench.peers[name].fresh() as broker, Worker(broker, late=mode == "late", capacity=count + 10) as worker:
        published = call(
            "benchmarks.producer", "paced", count, 0.02, longest_s, len(variant), variables=broker.variables
        )
        worker.run_until(count + 1, 5)
        started = {number: start for number, start, _ in worker.journal.records}
    waits = [(started[n] - begin) / 1e6 for n, begin, _, _ in published if n in started]
    returns = [(end - begin) / 1e6 for _, begin, end, _ in published]
    return {
        "p50": percentile(waits, 0.5),
        "p99": percentile(waits, 0.99),
        "worst": max(waits),
        "publish_p50": percentile(returns, 0.5),
        "missing": len(published) - len(waits),
        "samples": [
            [round((started[n] - begin) / 1e6, 2), round(pause, 3)] for n, begin, _, pause in published if n in started
        ],
    }


def rows(results: Results) -> list[Row]:
    """p50 and p99 beside those of the peers."""
    found = []
    for mode in ("early", "late"):
        for key, target in (("p50", "5 ms"), ("p99", "25 ms"), ("publish_p50", "")):
            ours = f"ours {mode}"
            what = "apply_async itself, p50" if key == "publish_p50" else f"apply_async to task start, {key}"
            peers = [number(middle(results, f"{peer} {mode}", key), " ms", 1) for peer in ("ours", "redis", "stock")]
            ratio = ratios(results, ours, f"redis {mode}", key)
            found.append(
                Row(
                    f"{what}, idle worker, {mode} ack, ours / Redis / stock",
                    target,
                    " / ".join(peers),
                    f"{sorted(ratio)[len(ratio) // 2]:.2f} x" if ratio else "-",
                    spread(values(results, ours, key), 1),
                )
            )
    return found
