"""What a view of one queue, of one worker, and of the dead letters shows."""

from __future__ import annotations

from dataclasses import dataclass

from celery_postgres.database.counting import Count
from celery_postgres.database.fleet_view_store import Worker
from celery_postgres.database.queue_view_store import DeadTotal, Queue
from celery_postgres.database.task_rows import DeadLetterGroup, TaskRow
from celery_postgres.readmodel.pages import Page


@dataclass(frozen=True, slots=True)
class TenantShare:
    """How many of a queue's first waiting messages are of one tenant; `tenant_id` is None for those without one."""

    tenant_id: str | None
    waiting: int


@dataclass(frozen=True, slots=True)
class QueueDetail:
    """One queue.

    Attributes:
        queue: its counts.
        tenants: who fills it, the most first, of its first 10,000 waiting and 10,000 scheduled messages.
        tenants_of: how many messages that is of.
        next: what runs next, about.
        workers: who consumes it.
    """

    queue: Queue
    tenants: tuple[TenantShare, ...]
    tenants_of: Count
    next: tuple[TaskRow, ...]
    workers: tuple[Worker, ...]


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead letters by reason and task, of the newest 10,000.

    Attributes:
        unregistered: the names of tasks that some worker did not know lately.
    """

    total: DeadTotal
    groups: tuple[DeadLetterGroup, ...]
    unregistered: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class WorkerDetail:
    """One worker, and what it has claimed, the longest first."""

    worker: Worker
    running: Page
