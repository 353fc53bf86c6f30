"""What a fleet of workers with nothing to do costs: 1, 10, 40 and 100 of them, with Celery's default options."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.cells import Cell, Column, number
from benchmarks.figures import middle, shown
from benchmarks.run import Run, worker_of
from benchmarks.samples import Results
from benchmarks.systems import System
from benchmarks.systems.celery_systems import PROGRAM
from environment.testkit.children import end
from environment.testkit.children import start as start_program
from environment.testkit.journal_worker import JournalWorker

_STARTED_AT_ONCE = 4
_MONITORED = 40
#: Seconds until workers that have started together are done with asking each other, and sleep: a hundred of ours take
#: 35.
_SETTLED_S, _FEW_SETTLED_S, _FEW = 35, 15, 10
#: The fleets of the page; the last, which takes half a minute to start, of these systems alone.
GROWN = (1, 10, 40, 100)
_LARGEST = ("ours", "redis", "rabbitmq")


def variants(run: Run) -> list[str]:
    """Workers; stock and Redis beside ours."""
    counts = (1, 10) if run.quick else (1, 10, 40, 100)
    return [
        *(f"{name} {count}" for count in counts for name in _compared(run)),
        *(f"{name} {_MONITORED} monitored" for name in run.present("ours", "redis")),
    ]


def _compared(run: Run) -> list[str]:
    return run.present("ours", "stock", "redis")


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Transactions or commands a second, and milliseconds of processor time a second, of each worker.

    ``how``: the number of workers, or ``grown``, the page's: one fleet that grows from each number to the next. With
    ``monitored`` one monitor receives their events.
    """
    how, _, monitored = how.partition(" ")
    grown = how == "grown"
    counts = GROWN[: None if system.name in _LARGEST else -1] if grown else [int(how)]
    found: dict[str, Any] = {}
    with system.fresh() as broker, ExitStack() as stack:
        # For as long as the workers live: Linux kills them when the thread that has started them ends.
        starters = stack.enter_context(ThreadPoolExecutor(_STARTED_AT_ONCE))
        if monitored:
            stack.callback(end, start_program(["-m", PROGRAM, "monitor"], broker.variables), 5)
        start = partial(worker_of, broker, system.concurrency, 100, ready=True)
        workers: list[JournalWorker] = []
        for count in counts:
            workers += starters.map(lambda _: stack.enter_context(start()), range(count - len(workers)))
            time.sleep(run.pick(5, _SETTLED_S if count > _FEW else _FEW_SETTLED_S))
            seconds = 7 if grown else run.pick(10, 30)
            meter, before = run.meter(system, *workers), broker.operations()
            time.sleep(seconds)
            spent, after = meter.stop(), broker.operations()
            found |= {
                f"operations_each_s{f' {count}' * grown}": None
                if before is None or after is None
                else (after - before) / seconds / count,
                f"worker_ms{f' {count}' * grown}": spent["worker"] / seconds / count * 1000,
                f"server_ms{f' {count}' * grown}": spent["server"] / seconds / count * 1000,
            }
        # All at once: one after the other takes a minute.
        for worker in workers:
            worker.process.terminate()
    return found


def _each(count: int) -> Column:
    """The operations of each worker, and the processor time of a worker with its part of the server's."""

    def column(results: Results, name: str) -> str:
        keys = ("operations_each_s", "worker_ms", "server_ms")
        operations, worker, server = (middle(results, f"{name} grown", f"{key} {count}") for key in keys)
        total = None if worker is None or server is None else worker + server
        return f"{shown(operations)} · {shown(total)}"

    return column


CELL = Cell(
    "fleet",
    variants,
    measure,
    page=lambda run: [f"{name} grown" for name in (*_compared(run), *run.present("rabbitmq"))],
    deadline_s=400,
    tables={"fleet": [(f"{count}: operations/s · ms/s", _each(count)) for count in GROWN]},
    printed={
        f"{count} idle workers, each": [
            ("server operations/s", number(f"{count}", "operations_each_s")),
            ("worker ms/s", number(f"{count}", "worker_ms")),
            ("server ms/s", number(f"{count}", "server_ms")),
        ]
        for count in (1, 10, 40, 100)
    }
    | {
        f"{_MONITORED} idle workers with events and one monitor, each": [
            ("server operations/s", number(f"{_MONITORED} monitored", "operations_each_s")),
            ("worker ms/s", number(f"{_MONITORED} monitored", "worker_ms")),
            ("server ms/s", number(f"{_MONITORED} monitored", "server_ms")),
        ]
    },
)
