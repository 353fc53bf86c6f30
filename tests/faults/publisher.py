"""A process that publishes numbered tasks until it is told to stop; run as ``python -m tests.faults.publisher``.

It needs nothing but ``benchmarks.program``, so that any Python with Celery can run it.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from uuid import UUID

from benchmarks.program import app, nap, stamp

#: Seconds between two tries of one task.
_AGAIN_S = 0.1


def load(folder: str, rate: str, seconds: str, countdown: str) -> None:
    """Publish tasks that take ``seconds``, ``rate`` a second, every fifth for ``countdown`` seconds later.

    A task that cannot be published is tried again, under its own id, until it is accepted. Then its number, the time
    (ns of CLOCK_MONOTONIC) and the number of tries go to ``published``. The file ``stop`` ends it.
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
    """Print what a worker of ``queue`` takes the time for, less what it is, in seconds."""
    told = stamp.apply_async((0,), queue=queue, ignore_result=False).get(timeout=30)
    print(told - time.time())  # noqa: T201
    app.close()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
