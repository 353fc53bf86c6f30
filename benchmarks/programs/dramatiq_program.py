"""Dramatiq on Redis: works and publishes for the comparison."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.programs import publishing
from environment.testkit.journal import Journal

_RESULTS = bool(os.environ.get("BENCH_RESULTS"))
_journal = Journal(Path(os.environ.get("BENCH_JOURNAL", ".")), int(os.environ.get("BENCH_CAPACITY", "0")))

_broker = RedisBroker(url=os.environ["BENCH_BROKER"])
if _RESULTS:
    _broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_BROKER"])))
dramatiq.set_broker(_broker)


@dramatiq.actor(queue_name="bench", **({"store_results": True} if _RESULTS else {}))
def work(number: int, seconds: float, padding: str) -> int | None:
    """The task of the comparison."""
    start = time.monotonic_ns()
    if seconds:
        time.sleep(seconds)
    _journal.write(number, start, time.monotonic_ns())
    # Without results Dramatiq logs every value that is returned.
    return number if _RESULTS else None


def _one(number: int, seconds: float, padding: str) -> None:
    work.send(number, seconds, padding)


def main(words: Sequence[str]) -> None:
    """``worker`` or ``publish MODE …``."""
    if words[0] == "publish":
        print(json.dumps(publishing.answer(words[1:], _one, None)))
        return
    stopping = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    worker = dramatiq.Worker(_broker, worker_threads=int(os.environ["BENCH_CONCURRENCY"]))
    worker.start()
    Path(os.environ["BENCH_READY"]).touch()
    stopping.wait()
    worker.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
