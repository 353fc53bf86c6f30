"""Memory of a worker, and whether it has imported SQLAlchemy's ORM."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, middle, number, spread, values
from benchmarks.machine import memory
from benchmarks.processes import call
from benchmarks.samples import Results
from benchmarks.worker import Worker
from environment.waiting import wait_until

NAME = "memory"
REPETITIONS = 3
QUICK_REPETITIONS = 1


def variants(bench: Bench) -> list[str]:
    """Peers with a server."""
    return bench.present("ours", "redis", "stock")


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Megabytes when it is ready and after some thousand tasks; the modules that tell."""
    tasks = 500 if variant == "stock" else 5_000
    with bench.peers[variant].fresh() as broker, Worker(broker, late=True, capacity=tasks) as worker:
        at_start = memory(worker.pid)
        broker.fill(1, tasks)
        worker.run_until(tasks, 60)
        at_work = memory(worker.pid)
        path = worker.folder / "modules"
        call("benchmarks.producer", "describe_worker", path, variables=broker.variables)
        wait_until(path.exists, 10, "the worker's answer")
        modules = json.loads(path.read_text())
    return {
        **at_work,
        "start_rss_mb": at_start["rss_mb"],
        "start_uss_mb": at_start["uss_mb"],
        "modules": len(modules),
        "orm": "sqlalchemy.orm" in modules,
        "sqlalchemy": "sqlalchemy" in modules,
    }


def rows(results: Results) -> list[Row]:
    """The difference to Redis."""
    found = []
    for key in ("rss_mb", "uss_mb"):
        pairs = zip(values(results, "ours", key), values(results, "redis", key), strict=False)
        more = [one - two for one, two in pairs]
        measured = [number(middle(results, who, key), " MB", 1) for who in ("ours", "redis", "stock")]
        found.append(
            Row(
                f"memory of a worker after 5,000 tasks, {key.split('_')[0].upper()}, ours / Redis / stock",
                "+ 15 MB" if key == "rss_mb" else "",
                " / ".join(measured),
                f"{median(more):+.1f} MB" if more else "-",
                spread(more, 1),
            )
        )
    if "ours" in results:
        imported = any(sample["orm"] for sample in results["ours"])
        found.append(Row("sqlalchemy.orm imported by a worker of ours", "no", "yes" if imported else "no"))
    return found
