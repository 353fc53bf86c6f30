"""Emptying a queue."""

from __future__ import annotations

from collections.abc import Callable

from celery_postgres.session import Row

#: A million take 3 s in one statement, and a statement may take 30.
AT_ONCE = 100_000


def purge(run: Callable[..., list[Row]], queue: str) -> int:
    """Delete what waits in a queue, due or not, in several transactions; how many. What consumers hold stays.

    :param run: a session's.
    """
    count, more = 0, True
    while more:
        ((gone, more),) = run("purge_queue", queue=queue, most=AT_ONCE)
        count += int(gone)
    return count
