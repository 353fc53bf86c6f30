"""Payloads of 100 B, 10 KB and 1 MB: published one by one, then done by one worker."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import Cell, number
from benchmarks.programs.publishing import WARM_UP
from benchmarks.run import Run, distinct, worker_of
from benchmarks.systems import System

#: Size in characters → the most tasks.
_SIZES = {100: 5_000, 10_000: 3_000, 1_000_000: 150}
_LABELS = ("100 B", "10 KB", "1 MB")


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Tasks published a second, and done a second."""
    size = int(how)
    with system.fresh() as broker:
        # With few tasks there is no warm-up, which would be all of them.
        most = min(WARM_UP, _SIZES[size]) if run.quick else _SIZES[size]
        done = broker.publish("one_by_one", 1, most, run.pick(2, 2), size)
        sent = done["published"] + (WARM_UP if most > WARM_UP else 0)
        with worker_of(broker, system.concurrency, sent + 1_000) as worker:
            worker.run_until(sent, run.pick(10, 15))
            starts = [start for _, start, _ in worker.journal.records]
            # Some fetch all of them at once: that is most of their work, and comes before the first start.
            span = (max(starts) - min(worker.ready_ns(), *starts)) / 1e9
        return {"publish_rate": done["rate"], "drain_rate": len(starts) / span, "sent": sent, **distinct(worker)}


CELL = Cell(
    "payload",
    lambda run: [f"{name} {size}" for size in list(_SIZES)[: 2 if run.quick else 3] for name in run.peers()],
    measure,
    page=lambda run: [f"{name} {size}" for size in list(_SIZES)[2:] for name in run.peers(once=True)],
    tables={
        "payload": [
            (f"{label} publish/s · done/s", number(str(size), "publish_rate", "drain_rate", mark=" · "))
            for label, size in list(zip(_LABELS, _SIZES, strict=True))[2:]
        ]
    },
)
