"""Limits that come while a worker runs which acknowledges tasks before they run: nothing of it would be counted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery_postgres.compat.upstream import tasks_by_ack
from celery_postgres.consumer import worker_report
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.database.store import Runner

logger = logging.getLogger(__name__)

Tasks = tuple[list[str], list[str]] | None


class Uncounted:
    """The queues from which this worker takes nothing, because they limit how many tasks run at once, and all of its
    tasks are acknowledged before they run. What waits there stays, for workers that acknowledge late.

    Args:
        tasks: the names of the worker's tasks that are acknowledged early, and late; None if it is no worker.
    """

    def __init__(self, tasks: Callable[[], Tasks] = tasks_by_ack) -> None:
        self._tasks = tasks
        self._names: dict[int, str] = {}

    def among(self, runner: Runner, fair: frozenset[int]) -> frozenset[int]:
        """Those of these fair queues. Logs each once, when it is found and when it is one no more."""
        tasks = self._tasks() if fair and worker_report.is_worker() else None
        found: dict[int, str] = {}
        if tasks is not None and tasks[0] and not tasks[1]:
            found = LimitStore(runner).that_count_running(sorted(fair))
        for queue in found.keys() - self._names.keys():
            logger.error(
                "The queue %s limits how many tasks run at once now, and this worker acknowledges tasks before they "
                "run, so that none would be counted: it takes nothing more from it. Set task_acks_late = True and "
                "start it again, or remove the limit",
                found[queue],
            )
        for queue in self._names.keys() - found.keys():
            logger.warning("The queue %s no longer limits how many tasks run at once", self._names[queue])
        self._names = found
        return frozenset(found)
