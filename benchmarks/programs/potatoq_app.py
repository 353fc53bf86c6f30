"""The application of potatoq's worker, which its own command line starts, and of ``potatoq_program``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from potatoq import Potatoq
from potatoq.brokers.postgres import PostgresConsumer

from environment.testkit.journal import Journal

_RESULTS = bool(os.environ.get("BENCH_RESULTS"))
_journal = Journal(Path(os.environ.get("BENCH_JOURNAL", ".")), int(os.environ.get("BENCH_CAPACITY", "0")))

app = Potatoq("bench", broker=os.environ["BENCH_BROKER"])
# Its children end after 1,000 tasks, which is a second here, and are replaced.
app.conf.worker_max_tasks_per_child = None


@app.task(name="work", ignore_result=not _RESULTS)
def work(number: int, seconds: float, padding: str) -> int:
    """The task of the comparison."""
    start = time.monotonic_ns()
    if seconds:
        time.sleep(seconds)
    _journal.write(number, start, time.monotonic_ns())
    return number


@app.task(name="stamp", ignore_result=False)
def stamp(number: int) -> float:
    """A part of a chord: returns when it ended."""
    return time.time()


@app.task(name="gather", ignore_result=False)
def gather(stamps: list[float]) -> float:
    """The body of a chord: returns the seconds since the last part ended."""
    return time.time() - max(stamps)


# -- its worker has no signal that a solo process could use: it takes tasks when it begins to fetch, and hears of new
#    ones once it listens.

_listen, _fetch = PostgresConsumer._listen, PostgresConsumer.fetch
_ready = os.environ.get("BENCH_READY", "")


def _say_begun(self: Any, timeout: float) -> Any:
    Path(f"{_ready}.begun").touch()
    PostgresConsumer.fetch = _fetch  # type: ignore[method-assign]
    return _fetch(self, timeout)


def _say_ready(self: Any, on: bool) -> None:
    _listen(self, on)
    if on:
        Path(_ready).touch()
        PostgresConsumer._listen = _listen  # type: ignore[method-assign]


if _ready:
    PostgresConsumer.fetch = _say_begun  # type: ignore[method-assign]
    PostgresConsumer._listen = _say_ready  # type: ignore[method-assign]
