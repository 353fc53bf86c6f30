"""How fast several producers publish one by one, beside workers that have nothing else to do.

Workers share the processors with the producers. So the table also has the rate without the workers' own processor time:
what the processors that are left would publish if they were all of them. That is right where nothing else runs. The
same ratio in processor time of producers and server for each publish also holds beside other work.
"""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.cells import Cell, number
from benchmarks.figures import middle, shown
from benchmarks.run import Run, worker_of
from benchmarks.samples import Results
from benchmarks.systems import Broker, System
from environment.testkit import measuring
from environment.testkit.children import answer, spawn

_STARTED_AT_ONCE = 4
_PRODUCERS = (1, 4, 8)
_WORKERS = (0, 1, 8, 40)
#: Seconds until each producer is connected and warm.
_PREPARING_S = {1: 3, 4: 5, 8: 8}
#: Numbers of tasks of one producer.
_APART = 1_000_000


def variants(run: Run) -> list[str]:
    """Producers and workers; Redis only where the question is."""
    some = [(8, 0), (8, 8)] if run.quick else [(producers, workers) for workers in _WORKERS for producers in _PRODUCERS]
    return [
        f"{name} {producers} {workers}"
        for producers, workers in some
        for name in run.present("ours", "redis")
        if name == "ours" or workers in (0, 8)
    ]


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Tasks published a second; µs of processor time for each, of producers, server and workers."""
    producers, workers = map(int, how.split())
    seconds = run.pick(3, 6)
    with system.fresh() as broker, ExitStack() as stack:
        # For as long as the workers live: Linux kills them when the thread that has started them ends.
        starters = stack.enter_context(ThreadPoolExecutor(_STARTED_AT_ONCE))
        start = partial(worker_of, broker, system.concurrency, 100_000, ready=True)
        idle = list(starters.map(lambda _: stack.enter_context(start()), range(workers)))
        if not workers:
            broker.publish("one_by_one", 0, 1, 1, 0)  # declares the queue
        time.sleep(run.pick(1, 5))  # until workers have greeted each other, and sleep
        begin = time.monotonic() + _PREPARING_S[producers]
        running = [_producer(broker, position, begin, seconds) for position in range(producers)]
        time.sleep(max(0.0, begin - time.monotonic()))
        meter = measuring.Meter(
            {
                "producer": [one.pid for one in running],
                "worker": [one.pid for one in idle],
                "server": system.pids(),
                "harness": [os.getpid()],
            }
        )
        time.sleep(max(0.0, begin + seconds - time.monotonic()))
        spent = meter.stop()
        done = [answer(one, 60) for one in running]
    published = sum(one["published"] for one in done)
    rate = sum(one["rate"] for one in done)
    share = spent["worker"] / spent["wall"] / (os.cpu_count() or 1)
    return {
        "published": published,
        "rate": rate,
        "rate_apart": rate / max(1 - share, 0.01),
        "producer_us": spent["producer"] / published * 1e6,
        "server_us": spent["server"] / published * 1e6,
        "worker_us": spent["worker"] / published * 1e6,
        "worker_cores": spent["worker"] / spent["wall"],
        "late": max(one["late_s"] for one in done),
    }


def _producer(broker: Broker, position: int, begin: float, seconds: float) -> subprocess.Popen[str]:
    command = broker.publisher("together", (position + 1) * _APART, begin, seconds)
    return spawn(command, broker.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _share(how: str, alone: str) -> Any:
    """A column: the rate without the workers' time, as a part of the rate with no worker."""

    def column(results: Results, name: str) -> str:
        beside, without = (middle(results, f"{name} {which}", "rate_apart") for which in (how, alone))
        return shown(beside / without) if beside and without else shown(None)

    return column


def _share_of_time(how: str, alone: str) -> Any:
    """A column: the same in processor time of producers and server for each publish."""

    def column(results: Results, name: str) -> str:
        beside, without = (
            [middle(results, f"{name} {which}", key) for key in ("producer_us", "server_us")] for which in (how, alone)
        )
        return shown(sum(without) / sum(beside)) if all(beside) and all(without) else shown(None)

    return column


CELL = Cell(
    "publishers",
    variants,
    measure,
    repetitions=3,
    printed={
        f"{producers} producers": [
            column
            for workers in _WORKERS
            for column in (
                (f"{workers} workers: publishes/s", number(f"{producers} {workers}", "rate")),
                ("without their time", number(f"{producers} {workers}", "rate_apart")),
                ("of no worker", _share(f"{producers} {workers}", f"{producers} 0")),
                ("by processor time", _share_of_time(f"{producers} {workers}", f"{producers} 0")),
                (
                    "producer / server / worker µs",
                    number(f"{producers} {workers}", "producer_us", "server_us", "worker_us"),
                ),
            )
        ]
        for producers in _PRODUCERS
    },
)
