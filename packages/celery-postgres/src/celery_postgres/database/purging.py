"""Emptying queues, and ending them."""

from __future__ import annotations

from collections.abc import Callable

from celery_postgres.database.session import Row

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


def drop(run: Callable[..., list[Row]], queue: str, *, if_unused: bool = False, if_empty: bool = False) -> None:
    """Delete a queue, and then its messages. What a crash leaves of them, or a publish that came too late, is
    `clear_orphans`'."""
    for (queue_id,) in run("drop_queue", queue=queue, if_unused=if_unused, if_empty=if_empty):
        clear(run, queue_id)


def drop_if_abandoned(run: Callable[..., list[Row]], queue: str) -> None:
    """The same for one queue, if it is past its expiry."""
    for (queue_id,) in run("drop_if_abandoned", queue=queue):
        clear(run, queue_id)


def drop_abandoned(run: Callable[..., list[Row]]) -> None:
    """The same for all queues that are past their expiry, or delete themselves and were left."""
    for (queue_id,) in run("drop_abandoned_queues"):
        clear(run, queue_id)


def clear_orphans(run: Callable[..., list[Row]]) -> None:
    """Delete the messages of all queues that are gone."""
    for (queue_id,) in run("orphaned_queues"):
        clear(run, queue_id)


def clear(run: Callable[..., list[Row]], queue_id: int) -> None:
    """Delete the messages of a queue that is gone, in several transactions."""
    more = True
    while more:
        ((_, more),) = run("drop_messages", queue_id=queue_id, most=AT_ONCE)
