"""Consuming queues with limits: what runs is what is claimed, so an acknowledgement before the task runs hides it."""

from __future__ import annotations

import logging

from celery.exceptions import WorkerShutdown

from celery_postgres.compat.upstream import tasks_by_ack
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.errors import OptionError

logger = logging.getLogger(__name__)

#: Names of tasks in one line.
NAMED = 5
#: The queues that this process has consumed: a limit that comes later ends no worker when it connects again. It takes
#: nothing from them (`consumer.uncounted`).
_consumed: set[str] = set()


def check_acks(limits: LimitStore, queue: str, *, no_ack: bool) -> None:
    """
    Raises:
        OptionError: the queue has limits, and this process consumes it without acks.
        celery.exceptions.WorkerShutdown: the queue limits how many run, and this worker would acknowledge all of them
            before they run.
    """
    begins = queue not in _consumed
    _consumed.add(queue)
    tasks = tasks_by_ack()
    if not no_ack and (tasks is None or not tasks[0]):
        return
    counts_running = limits.counts_running(queue)
    if no_ack and counts_running is not None and begins:
        raise OptionError(f"the queue {queue!r} has limits, which do not hold with no_ack: consume it with acks")
    if not counts_running or tasks is None:
        return
    early, late = tasks
    if not late and begins:
        logger.critical(
            "The queue %s limits how many tasks run at once, and this worker acknowledges tasks before they run, so "
            "that none would be counted: set task_acks_late = True",
            queue,
        )
        raise WorkerShutdown(1)  # Celery logs the traceback of any other error
    named = ", ".join(early[:NAMED]) + (", …" if len(early) > NAMED else "")
    logger.warning(
        "The queue %s limits how many tasks run at once, and does not count tasks that are acknowledged before they "
        "run: set acks_late = True on those that it gets (%s)",
        queue,
        named,
    )
