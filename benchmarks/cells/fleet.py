"""What a fleet of workers with nothing to do costs: 1, 10, 40 and 100 of them, with Celery's default options."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.cells import Cell, number
from benchmarks.run import Run, worker_of
from benchmarks.systems import System

_STARTED_AT_ONCE = 4


def variants(run: Run) -> list[str]:
    """Workers; stock and Redis beside ours."""
    return [f"{name} {count}" for count in ((1, 10) if run.quick else (1, 10, 40, 100)) for name in _compared(run)]


def _compared(run: Run) -> list[str]:
    return run.present("ours", "stock", "redis")


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Transactions or commands a second, and milliseconds of processor time a second, of each worker."""
    count, seconds = int(how), run.pick(10, 30)
    with system.fresh() as broker, ExitStack() as stack:
        # For as long as the workers live: Linux kills them when the thread that has started them ends.
        starters = stack.enter_context(ThreadPoolExecutor(_STARTED_AT_ONCE))
        start = partial(worker_of, broker, system.concurrency, 100, ready=True)
        workers = list(starters.map(lambda _: stack.enter_context(start()), range(count)))
        # Workers ask each other at their start, and some poll quickly for a moment before they sleep.
        time.sleep(run.pick(5, 15))
        meter, before = run.meter(system, *workers), broker.operations()
        time.sleep(seconds)
        spent, after = meter.stop(), broker.operations()
        operations = None if before is None or after is None else (after - before) / seconds / count
        return {
            "operations_each_s": operations,
            "worker_ms": spent["worker"] / seconds / count * 1000,
            "server_ms": spent["server"] / seconds / count * 1000,
        }


CELL = Cell(
    "fleet",
    variants,
    measure,
    repetitions=3,
    printed={
        f"{count} idle workers, each": [
            ("server operations/s", number(f"{count}", "operations_each_s")),
            ("worker ms/s", number(f"{count}", "worker_ms")),
            ("server ms/s", number(f"{count}", "server_ms")),
        ]
        for count in (1, 10, 40, 100)
    },
)
