"""A process that publishes: ``python -m benchmarks.producer MODE …``; the broker is in the environment.

Each mode prints one line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import bulk
from benchmarks.program import QUEUE, app, describe, nap, noop, work
from benchmarks.programs import publishing
from benchmarks.systems import sized


def sample(number: str) -> Any:
    """Declare the queue and publish one message."""
    noop.apply_async((int(number),))
    return True


def sample_work(number: str, seconds: str, size: str, queue: str = QUEUE) -> Any:
    """The same with the task of the comparison."""
    work.apply_async((int(number), float(seconds), sized(int(size))), queue=queue)
    return True


def one_by_one(first: str, count: str, limit_s: str) -> Any:
    """``apply_async`` as fast as it goes: publishes in a second."""
    wanted = publishing.WARM_UP + int(count)
    return publishing.rate(int(first), wanted, float(limit_s), 1, lambda numbers: noop.apply_async((numbers[0],)))


def in_bulk(count: str, batch: str, limit_s: str) -> Any:
    """The same in batches, by what the installed packages offer; ``None`` where they offer nothing."""
    if not bulk.is_offered():
        return None

    def send(numbers: Sequence[int]) -> None:
        with bulk.together(app) as producer:
            for number in numbers:
                noop.apply_async((number,), producer=producer)

    return publishing.rate(1, publishing.WARM_UP + int(count), float(limit_s), int(batch), send)


def paced(count: str, shortest_s: str, longest_s: str, seed: str) -> Any:
    """Publish with random pauses: when each was begun, when it returned, and the pause before it."""
    dice = random.Random(int(seed))  # noqa: S311
    noop.apply_async((0,))
    published = []
    for number in range(1, int(count) + 1):
        pause = dice.uniform(float(shortest_s), float(longest_s))
        time.sleep(pause)
        begin = time.monotonic_ns()
        noop.apply_async((number,))
        published.append((number, begin, time.monotonic_ns(), pause))
    return published


def naps(count: str, seconds: str) -> Any:
    """Tasks that take a while, numbered from 1."""
    for number in range(1, int(count) + 1):
        nap.apply_async((number, float(seconds)))
    return True


def describe_worker(path: str) -> Any:
    """Ask a worker for its modules."""
    describe.apply_async((path,))
    return True


def ping() -> Any:
    """Ask all workers whether they live; how many do."""
    return len(app.control.ping(timeout=2) or [])


def threads(number: str, seconds: str) -> Any:
    """Several threads that publish at once; how many messages they published."""
    end = time.monotonic() + float(seconds)
    counts = [0] * int(number)
    failed: list[str] = []

    def publish(position: int) -> None:
        try:
            while time.monotonic() < end:
                noop.apply_async((position,))
                counts[position] += 1
        except Exception as error:
            failed.append(repr(error))
            raise

    running = [threading.Thread(target=publish, args=[position]) for position in range(int(number))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return {"published": sum(counts), "failed": failed}


_MODES: dict[str, Callable[..., Any]] = {
    mode.__name__: mode
    for mode in (sample, sample_work, one_by_one, in_bulk, paced, naps, describe_worker, ping, threads)
}

if __name__ == "__main__":
    print(json.dumps(_MODES[sys.argv[1]](*sys.argv[2:])))
