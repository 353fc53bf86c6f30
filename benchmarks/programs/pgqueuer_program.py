"""PgQueuer: installs, works and publishes for the comparison."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.errors import FailingListenerError
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.programs import publishing
from environment.testkit.journal import Journal

#: Connections of a worker: one listens, one takes, one settles.
_CONNECTIONS = 4


def _payload(number: int, seconds: float, padding: str) -> bytes:
    return json.dumps({"number": number, "seconds": seconds, "padding": padding}).encode()


async def _work() -> None:
    concurrency = int(os.environ["BENCH_CONCURRENCY"])
    journal = Journal(Path(os.environ["BENCH_JOURNAL"]), int(os.environ["BENCH_CAPACITY"]))
    # It has no limit of its own that holds for one worker alone and can be 1.
    running = asyncio.Semaphore(concurrency)
    pool = await asyncpg.create_pool(os.environ["BENCH_BROKER"], min_size=2, max_size=_CONNECTIONS)
    worker = PgQueuer.from_asyncpg_pool(pool)

    @worker.entrypoint("work")
    async def work(job: Job) -> None:
        assert job.payload is not None
        task = json.loads(job.payload)
        async with running:
            start = time.monotonic_ns()
            if task["seconds"]:
                await asyncio.sleep(task["seconds"])
                # uvloop's timers are whole milliseconds, and early by up to one: what is left is slept outside of it.
                time.sleep(max(0.0, task["seconds"] - (time.monotonic_ns() - start) / 1e9))
            journal.write(task["number"], start, time.monotonic_ns())

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.shutdown.set)
    ready = asyncio.create_task(_say_ready(worker))
    # It fetches at once, and listens a little later.
    Path(os.environ["BENCH_READY"] + ".begun").touch()
    await worker.run(batch_size=concurrency)
    await ready


async def _say_ready(worker: PgQueuer) -> None:
    """When a notification that it sent itself has come back."""
    while True:
        try:
            await worker.qm.listener_healthy(timeout=timedelta(seconds=0.05))
            break
        except FailingListenerError:
            continue
    Path(os.environ["BENCH_READY"]).touch()


def main(words: Sequence[str]) -> None:
    """``install``, ``worker`` or ``publish MODE …``."""
    if words[0] == "worker":
        uvloop.run(_work())
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        connection = runner.run(asyncpg.connect(os.environ["BENCH_BROKER"]))
        queries = Queries.from_asyncpg_connection(connection)
        if words[0] == "install":
            runner.run(queries.install())
            print(json.dumps(True))
            runner.run(connection.close())
            return
        run = runner.get_loop().run_until_complete

        def one(number: int, seconds: float, padding: str) -> None:
            run(queries.enqueue("work", _payload(number, seconds, padding)))

        def many(numbers: Sequence[int], seconds: float, padding: str) -> None:
            payloads: list[bytes | None] = [_payload(number, seconds, padding) for number in numbers]
            run(queries.enqueue(["work"] * len(payloads), payloads, [0] * len(payloads)))

        print(json.dumps(publishing.answer(words[1:], one, many)))
        runner.run(connection.close())


if __name__ == "__main__":
    main(sys.argv[1:])
