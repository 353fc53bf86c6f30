"""A process that wants results: ``python -m benchmarks.asker MODE …``; broker and backend are in the environment.

Each mode prints one line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from celery import chord, group

from benchmarks.program import app, gather, noop, stamp

#: Before the clock starts: connections, caches, prepared statements.
_WARM_UP = 1
_LIMIT_S = 120


def gets(count: str, shortest_s: str, longest_s: str, seed: str) -> Any:
    """``apply_async().get()`` with random pauses: milliseconds of each."""
    dice = random.Random(int(seed))  # noqa: S311
    took = []
    for number in range(_WARM_UP + int(count)):
        time.sleep(dice.uniform(float(shortest_s), float(longest_s)))
        begin = time.perf_counter()
        noop.apply_async((number,)).get(timeout=_LIMIT_S)
        took.append((time.perf_counter() - begin) * 1000)
    return took[_WARM_UP:]


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
    """Groups one after the other: milliseconds of ``get()``, and the whole."""
    noop.apply_async((0,)).get(timeout=_LIMIT_S)
    found = []
    for _ in range(int(count)):
        begin = time.perf_counter()
        result = group(noop.s(number) for number in range(int(parts))).apply_async()
        published = time.perf_counter()
        values = result.get(timeout=_LIMIT_S)
        end = time.perf_counter()
        if values != list(range(int(parts))):
            raise AssertionError("the results are not those of the parts")
        found.append(((end - published) * 1000, (end - begin) * 1000))
    return found


def waiters(number: str, rest_s: str) -> Any:
    """Threads that wait for one task each, and then the tasks: seconds until the last thread has its result.

    Prints a line when all of them wait, and waits for so long before it publishes.
    """
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
    print(json.dumps(True), flush=True)
    time.sleep(float(rest_s))
    begin = time.perf_counter()
    for position, identity in enumerate(identities):
        noop.apply_async((position,), task_id=identity)
    published = time.perf_counter()
    for thread in running:
        thread.join()
    return {"publish_s": published - begin, "whole_s": time.perf_counter() - begin, "failed": failed[:3]}


_MODES: dict[str, Callable[..., Any]] = {mode.__name__: mode for mode in (gets, chords, groups, waiters)}

if __name__ == "__main__":
    print(json.dumps(_MODES[sys.argv[1]](*sys.argv[2:])))
