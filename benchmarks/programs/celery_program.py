"""Celery on any broker: what publishes, waits for results and prepares a database.  Its worker is Celery's own.

``python -m benchmarks.programs.celery_program COMMAND …``; the broker is in the environment.  Each command prints one
line of JSON, except ``fill_and_work`` and ``monitor``, which run until TERM.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from celery import chord, group

from benchmarks.programs import publishing
from benchmarks.systems import sized
from environment.testkit.journal_app import QUEUE, app, gather, nap, stamp, work

#: Seconds that a result may take.
_LIMIT_S = 120

# -- publishing


def publish(*words: str) -> Any:
    """See ``benchmarks.systems``."""
    bulk = os.environ.get("BENCH_INSTALL") and hasattr(importlib.import_module("celery_postgres"), "bulk")
    return publishing.answer(words, _one, _many if bulk else None)


def _one(number: int, seconds: float, padding: str) -> None:
    work.apply_async((number, seconds, padding))


def _many(numbers: Sequence[int], seconds: float, padding: str) -> None:
    with app.producer_or_acquire() as producer, importlib.import_module("celery_postgres").bulk(producer) as sending:
        for number in numbers:
            work.apply_async((number, seconds, padding), producer=sending)


def sample(number: str, seconds: str, size: str, queue: str = QUEUE) -> Any:
    """Declare the queue and publish the task that is copied."""
    work.apply_async((int(number), float(seconds), sized(int(size))), queue=queue)
    return True


def naps(count: str, seconds: str) -> Any:
    """Publish tasks that take ``seconds`` and write their starts and ends, numbered from 1."""
    for number in range(1, int(count) + 1):
        nap.apply_async((number, float(seconds)))
    return True


# -- results


def gets(count: str, shortest_s: str, longest_s: str) -> Any:
    """``apply_async().get()`` with random pauses: milliseconds of each."""
    dice = random.Random(1)  # noqa: S311
    took = []
    for number in range(1 + int(count)):
        time.sleep(dice.uniform(float(shortest_s), float(longest_s)))
        begin = time.perf_counter()
        work.apply_async((number,)).get(timeout=_LIMIT_S)
        took.append((time.perf_counter() - begin) * 1000)
    # The first one connects and prepares statements.
    return took[1:]


def chords(count: str, parts: str) -> Any:
    """Chords one after the other: milliseconds from the end of the last part to the start of the body; the whole."""
    found = []
    for _ in range(1 + int(count)):
        begin = time.perf_counter()
        result = chord([stamp.s(number) for number in range(int(parts))], gather.s()).apply_async()
        gap = result.get(timeout=_LIMIT_S)
        found.append((gap * 1000, (time.perf_counter() - begin) * 1000))
    return found[1:]


def groups(count: str, parts: str) -> Any:
    """Groups one after the other: milliseconds of ``get()``, and of everything with the publishing."""
    work.apply_async((0,)).get(timeout=_LIMIT_S)
    found = []
    for _ in range(int(count)):
        begin = time.perf_counter()
        result = group(work.s(number) for number in range(int(parts))).apply_async()
        published = time.perf_counter()
        values = result.get(timeout=_LIMIT_S)
        end = time.perf_counter()
        if values != list(range(int(parts))):
            raise AssertionError("the results are not those of the parts")
        found.append(((end - published) * 1000, (end - begin) * 1000))
    return found


def waiters(number: str, rest_s: str) -> Any:
    """Start threads that each wait for a task, ``rest_s`` later publish the tasks; seconds until all threads end."""
    identities = [str(uuid.uuid4()) for _ in range(int(number))]
    failed: list[str] = []

    def wait(identity: str) -> None:
        try:
            app.AsyncResult(identity).get(timeout=_LIMIT_S)
        except Exception as error:
            failed.append(repr(error))
            raise

    threading.stack_size(256 * 1024)
    running = [threading.Thread(target=wait, args=[identity]) for identity in identities]
    for thread in running:
        thread.start()
    time.sleep(float(rest_s))
    begin = time.perf_counter()
    for position, identity in enumerate(identities):
        work.apply_async((position,), task_id=identity)
    for thread in running:
        thread.join()
    return {"whole_s": time.perf_counter() - begin, "failed": failed[:3]}


# -- the rest


def fill_and_work(count: str) -> None:
    """Fill Celery's in-memory transport, then work in the same process: what Celery itself costs."""
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(1, int(count) + 1):
            work.apply_async((number, 0.0, ""), producer=producer)
        app.Worker(pool="solo", concurrency=1, loglevel="WARNING", hostname="ceiling@bench").start()


def monitor() -> None:
    """Receive all events, as Flower does, until TERM."""
    with app.connection_for_read() as connection:
        app.events.Receiver(connection, handlers={"*": lambda event: None}).capture()


def create_schema(url: str) -> Any:
    """Create the package's tables in an empty database, as another Celery project would."""
    sqlalchemy: Any = importlib.import_module("sqlalchemy")
    engine = sqlalchemy.create_engine(url)
    importlib.import_module("celery_postgres").create_schema(engine)
    engine.dispose()
    return True


_COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command
    for command in (publish, sample, naps, gets, chords, groups, waiters, fill_and_work, monitor, create_schema)
}

if __name__ == "__main__":
    print(json.dumps(_COMMANDS[sys.argv[1]](*sys.argv[2:])))
