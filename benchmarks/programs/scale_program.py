"""Many workers and many publishers out of one process, for ``./dev bench scale``.

``python -m benchmarks.programs.scale_program COMMAND …``; the broker is in the environment as ``journal_app`` reads it.
Each command prints one line of JSON, except ``fleet``, which runs until TERM.  A hundred Python processes that import
Celery one by one are two minutes of two processors; forked from one they are ready in seconds.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from celery.signals import worker_ready

import celery_postgres
from benchmarks.programs import publishing
from benchmarks.systems import sized
from benchmarks.systems.clusters import connect
from celery_postgres import operations
from environment.testkit.children import dies_with_us
from environment.testkit.journal_app import QUEUE, app, work

#: What the application's metrics ask for (``app.observability.queue_depth``).
CAP, NAMED, WALKED = 10_001, 100, 1_000

_FORK = multiprocessing.get_context("fork")
#: Publishes of each process before the clock starts.
_WARM_UP = 20


def fleet(count: str) -> None:
    """Run so many solo workers until TERM; create ``BENCH_READY`` when all of them take tasks."""
    ready = Path(os.environ["BENCH_READY"])
    pids: list[int] = []
    # The children inherit a TERM that is blocked until they have a handler of their own.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for number in range(int(count)):
        if not (pid := os.fork()):
            _work(number, ready)
        pids.append(pid)
    left = set(pids)
    while left and not signal.sigtimedwait({signal.SIGTERM}, 0.05):
        if not ready.exists() and all(_mark(ready, number).exists() for number in range(int(count))):
            ready.touch()
        _end_with(left)
    for pid in left:
        os.kill(pid, signal.SIGTERM)
    for pid in left:
        os.waitpid(pid, 0)


def _work(number: int, ready: Path) -> None:
    """Be one worker; does not return."""
    if dies := dies_with_us():
        dies()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    worker_ready.connect(lambda **_: _mark(ready, number).touch(), weak=False)
    try:
        app.Worker(pool="solo", concurrency=1, loglevel="WARNING", hostname=f"{os.getpid()}@bench").start()
    finally:
        os._exit(0)


def _mark(ready: Path, number: int) -> Path:
    return ready.with_suffix(f".{number}")


def _end_with(left: set[int]) -> None:
    """End if a worker ended: a fleet that is smaller than it says would be measured."""
    for pid in left:
        if os.waitpid(pid, os.WNOHANG)[0]:
            os.killpg(0, signal.SIGKILL)


def together(processes: str, seconds: str, size: str = "0") -> Any:
    """Publish one by one from so many processes at the same time: the sum, and milliseconds of single calls."""
    barrier, answers = _FORK.Barrier(int(processes)), _FORK.SimpleQueue()

    def publish() -> None:
        padding = sized(int(size))
        for number in range(_WARM_UP):
            work.apply_async((number + 1, 0.0, padding))
        barrier.wait()
        took: list[float] = []
        cpu, begin = time.process_time(), time.perf_counter()
        while (now := time.perf_counter()) < begin + float(seconds):
            work.apply_async((len(took) + 1, 0.0, padding))
            took.append((time.perf_counter() - now) * 1000)
        spent = time.perf_counter() - begin
        some = random.sample(took, min(500, len(took)))
        answers.put((len(took), len(took) / spent, time.process_time() - cpu, some))

    running = [_FORK.Process(target=publish, daemon=True) for _ in range(int(processes))]
    for process in running:
        process.start()
    found = [answers.get() for _ in running]
    for process in running:
        process.join()
    counts, rates, cpus, calls = zip(*found, strict=True)
    return {
        "published": sum(counts),
        "warm_up": _WARM_UP * int(processes),
        "rate": sum(rates),
        "cpu_s": sum(cpus),
        "calls_ms": sorted(round(call, 3) for some in calls for call in some),
    }


def paced_over(queues: str, count: str, shortest_s: str, longest_s: str) -> Any:
    """Publish with pauses, each to one of ``q0``, ``q1`` …: as ``paced`` of ``benchmarks.systems``."""
    dice = random.Random(1)  # noqa: S311

    def one(number: int, seconds: float, padding: str) -> None:
        work.apply_async((number, seconds, padding), queue=f"q{dice.randrange(int(queues))}")

    return publishing.paced(1, int(count), float(shortest_s), float(longest_s), one)


def declare(count: str) -> Any:
    """Declare the queues ``q0``, ``q1`` …, as a publish to each would."""
    with app.connection_for_write() as connection:
        for number in range(int(count)):
            app.amqp.queues.new_missing(f"q{number}")(connection.default_channel).declare()
    return int(count)


def look(times: str) -> Any:
    """Milliseconds of an overview of the queue tool, of a scrape of metrics, and of counting by tenant: medians."""
    took: dict[str, list[float]] = {"overview_ms": [], "scrape_ms": [], "tenants_ms": []}
    url = os.environ["BENCH_BROKER"].removeprefix("sqla+")
    with operations.of(app) as broker, contextlib.closing(connect(url)) as own:
        own.autocommit = False
        asked: dict[str, Callable[[], object]] = {
            "overview_ms": broker.queues,
            "scrape_ms": lambda: operations.monitor(own).queue_depths(named=NAMED, walked=WALKED, cap=CAP),
            "tenants_ms": lambda: operations.waiting_by_tenant(own, QUEUE, cap=CAP),
        }
        for _ in range(int(times)):
            for name, ask in asked.items():
                begin = time.perf_counter()
                ask()
                own.rollback()
                took[name].append((time.perf_counter() - begin) * 1000)
    return {name: median(found) for name, found in took.items()}


_COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command for command in (fleet, together, paced_over, declare, look)
}

if __name__ == "__main__":
    celery_postgres.install()
    found = _COMMANDS[sys.argv[1]](*sys.argv[2:])
    if found is not None:
        print(json.dumps(found))
