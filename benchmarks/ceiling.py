"""The ceiling: a worker on Celery's in-memory transport, filled before it starts, in one process.

``python -m benchmarks.ceiling COUNT`` runs until it is told to stop.
"""

from __future__ import annotations

import sys

from benchmarks.program import app, noop


def main(count: int) -> None:
    """Fill and work."""
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(1, count + 1):
            noop.apply_async((number,), producer=producer)
        app.Worker(pool="solo", concurrency=1, loglevel="WARNING", hostname="ceiling@bench").start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
