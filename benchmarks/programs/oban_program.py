"""Oban for Python: installs, works and publishes for the comparison."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop
from oban import Oban, worker
from oban.job import Job
from oban.schema import install

from benchmarks.programs import publishing
from environment.testkit.journal import Journal

_QUEUE = "bench"

_journal = Journal(Path(os.environ.get("BENCH_JOURNAL", ".")), int(os.environ.get("BENCH_CAPACITY", "0")))


@worker(queue=_QUEUE)
class Work:
    """The task of the comparison."""

    async def process(self, job: Job) -> None:
        """Sleep, then write down when."""
        start = time.monotonic_ns()
        if seconds := job.args["seconds"]:
            await asyncio.sleep(seconds)
            # uvloop's timers are whole milliseconds, and early by up to one: what is left is slept outside of it.
            time.sleep(max(0.0, seconds - (time.monotonic_ns() - start) / 1e9))
        _journal.write(job.args["number"], start, time.monotonic_ns())


def _job(number: int, seconds: float, padding: str) -> Job:
    return Work.new({"number": number, "seconds": seconds, "padding": padding})


async def _work() -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    pool = await Oban.create_pool(dsn=os.environ["BENCH_BROKER"])
    Path(os.environ["BENCH_READY"] + ".begun").touch()
    async with Oban(pool=pool, queues={_QUEUE: int(os.environ["BENCH_CONCURRENCY"])}) as oban:
        # It listens in the background: this waits until the channel of new jobs is listened to.
        await oban._notifier.listen("insert", _ignore)
        Path(os.environ["BENCH_READY"]).touch()
        await stopping.wait()
    await pool.close()


async def _ignore(channel: str, payload: dict[str, object]) -> None:
    """What hears of new jobs beside Oban itself."""


def _publish(words: Sequence[str]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.get_loop().run_until_complete
        pool = run(Oban.create_pool(dsn=os.environ["BENCH_BROKER"], min_size=1, max_size=1))
        oban = run(Oban(pool=pool).start())

        def one(number: int, seconds: float, padding: str) -> None:
            run(oban.enqueue(_job(number, seconds, padding)))

        def many(numbers: Sequence[int], seconds: float, padding: str) -> None:
            run(oban.enqueue_many([_job(number, seconds, padding) for number in numbers]))

        print(json.dumps(publishing.answer(words, one, many)))
        run(oban.stop())
        run(pool.close())


async def _install() -> None:
    pool = await Oban.create_pool(dsn=os.environ["BENCH_BROKER"])
    await install(pool)
    await pool.close()
    print(json.dumps(True))


def main(words: Sequence[str]) -> None:
    """``install``, ``worker`` or ``publish MODE …``."""
    if words[0] == "publish":
        _publish(words[1:])
    else:
        uvloop.run(_work() if words[0] == "worker" else _install())


if __name__ == "__main__":
    main(sys.argv[1:])
