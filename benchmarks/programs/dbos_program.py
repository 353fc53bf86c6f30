"""DBOS: installs, works and publishes for the comparison."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer

from benchmarks.programs import publishing
from environment.testkit.journal import Journal

_QUEUE, _VERSION = "bench", "1"
#: Seconds between two polls; 1 is the default.  It has no other way to notice a new task.
_POLL_S = 0.1

_journal = Journal(Path(os.environ.get("BENCH_JOURNAL", ".")), int(os.environ.get("BENCH_CAPACITY", "0")))


@DBOS.workflow(name="work")
async def work(number: int, seconds: float, padding: str) -> int:
    """The task of the comparison."""
    start = time.monotonic_ns()
    if seconds:
        await asyncio.sleep(seconds)
    _journal.write(number, start, time.monotonic_ns())
    return number


def _launch() -> None:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": os.environ["BENCH_BROKER"],
            "application_version": _VERSION,
            "log_level": "WARNING",
            "serializer": DBOSPortableJSONSerializer(),
        }
    )
    DBOS.launch()


def _work() -> None:
    stopping = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    _launch()
    # One that takes what it can run in a poll; without this limit it takes all that waits.
    DBOS.register_queue(_QUEUE, worker_concurrency=int(os.environ["BENCH_CONCURRENCY"]), polling_interval_sec=_POLL_S)
    Path(os.environ["BENCH_READY"]).touch()
    stopping.wait()
    DBOS.destroy(workflow_completion_timeout_sec=5)


def main(words: Sequence[str]) -> None:
    """``install``, ``worker`` or ``publish MODE …``."""
    if words[0] == "worker":
        _work()
        return
    if words[0] == "install":
        _launch()
        DBOS.register_queue(_QUEUE, worker_concurrency=1, polling_interval_sec=_POLL_S)
        DBOS.destroy()
        print(json.dumps(True))
        return
    client = DBOSClient(system_database_url=os.environ["BENCH_BROKER"], serializer=DBOSPortableJSONSerializer())

    def one(number: int, seconds: float, padding: str) -> None:
        client.enqueue(
            {"queue_name": _QUEUE, "workflow_name": "work", "app_version": _VERSION}, number, seconds, padding
        )

    print(json.dumps(publishing.answer(words[1:], one, None)))
    client.destroy()


if __name__ == "__main__":
    main(sys.argv[1:])
