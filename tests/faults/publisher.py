"""A process that publishes numbered tasks until a file tells it to stop: ``python -m tests.faults.publisher``.

It needs nothing but ``environment.testkit.journal_app``, so that any Python with Celery can run it.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from uuid import UUID, uuid4

from celery.exceptions import TimeoutError as CeleryTimeoutError

from environment.testkit.journal_app import app, nap, stamp

#: Seconds between two attempts to publish a task.
_AGAIN_S = 0.1


def load(folder: str, rate: str, seconds: str, countdown: str) -> None:
    """Publish tasks that take ``seconds``, ``rate`` a second, every fifth with a countdown of ``countdown`` seconds.

    A failed publish is repeated under the same task id until the broker accepts it.  Then the number, the time (ns of
    CLOCK_MONOTONIC) and the number of attempts are appended to the file ``published``.  The file ``stop`` ends it.
    """
    begin = time.monotonic()
    with Path(folder, "published").open("a", buffering=1) as published:
        for number in itertools.count(1):
            time.sleep(max(0.0, begin + number / float(rate) - time.monotonic()))
            if Path(folder, "stop").exists():
                return
            later = float(countdown) if number % 5 == 0 else 0.0
            for tries in itertools.count(1):
                try:
                    nap.apply_async(
                        (number, float(seconds)),
                        task_id=str(UUID(int=number)),
                        countdown=later or None,
                        retry=False,
                    )
                except Exception as error:  # whatever a broker's driver raises
                    print(f"{number}: {type(error).__name__}", flush=True)  # noqa: T201
                    time.sleep(_AGAIN_S)
                else:
                    published.write(f"{number} {time.monotonic_ns()} {tries}\n")
                    break


def clock(queue: str) -> None:
    """Print by how many seconds the wall clock of a worker of ``queue`` is ahead of this one's."""
    shown = stamp.apply_async((0,), queue=queue, ignore_result=False).get(timeout=30)
    print(shown - time.time())  # noqa: T201
    app.close()


def client(folder: str, timeout: str) -> None:
    """Send a task and wait for its result, again and again, until the file ``stop`` exists.

    Each answer is appended to the file ``answers``, with the task's id; what did not answer in ``timeout`` seconds is
    written to standard output.
    """
    with Path(folder, "answers").open("a", buffering=1) as answers:
        while not Path(folder, "stop").exists():
            task_id = str(uuid4())
            while True:
                try:
                    result = stamp.apply_async((0, 0.2), task_id=task_id, ignore_result=False, retry=False)
                    break
                except Exception:  # whatever a broker's driver raises
                    time.sleep(_AGAIN_S)
            try:
                answers.write(f"{task_id} {result.get(timeout=float(timeout))!r}\n")
            except CeleryTimeoutError:
                print(f"{task_id}: no answer", flush=True)  # noqa: T201


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
