"""Payloads of 100 B, 10 KB and 1 MB: published one by one, then done by one worker."""

from __future__ import annotations

from typing import Any

from benchmarks.comparison.field import Field, distinct, worker_of
from benchmarks.systems import publish

NAME = "payload"
REPETITIONS = 1
QUICK_REPETITIONS = 1

#: Size in characters → the most tasks.
_SIZES = {100: 5_000, 10_000: 3_000, 1_000_000: 150}


def variants(field: Field) -> list[str]:
    """System, size."""
    sizes = (100, 10_000) if field.quick else _SIZES
    return [f"{name} {size}" for size in sizes for name in field.peers()]


def run(field: Field, variant: str) -> dict[str, Any]:
    """Tasks published in a second, and done in a second."""
    name, size = variant.split()
    system = field.systems[name]
    with system.fresh() as ground:
        # The first 20 tasks of a long text would all be warm-up: then nothing is.
        most = min(200, _SIZES[int(size)]) if field.quick else _SIZES[int(size)]
        done = publish(ground, "one_by_one", 1, most, field.pick(2, 4), int(size))
        sent = done["published"] + (200 if most > 200 else 0)
        with worker_of(ground, system.concurrency, sent + 1_000) as worker:
            worker.run_until(sent, field.pick(10, 20))
            starts = [start for _, start, _ in worker.journal.records]
            # Some fetch all of them at once: that is most of their work, and comes before the first start.
            span = (max(starts) - min(worker.ready_ns(), *starts)) / 1e9
        return {"publish_rate": done["rate"], "drain_rate": len(starts) / span, "sent": sent, **distinct(worker)}
