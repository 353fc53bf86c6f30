"""The limits on waiting tasks: each tenant has its share of the queue, and is refused when that is full."""

from __future__ import annotations

import threading
import time
from collections import Counter
from uuid import UUID

from sqlalchemy import Connection

from app.celery_app import celery_app
from app.core.settings import Settings
from app.http.shares import refuse
from celery_postgres import operations

#: Seconds for which a count is valid. This process adds what it submits meanwhile; other processes may overshoot.
FRESH_S = 0.5
#: When all shares together are full, a tenant may still have one part in so many of its own: its tasks wait for their
#: turns, and not for the others' tasks.
RESERVE = 10


class Backlog:
    """What waits in the queue, counted anew by the first request after `FRESH_S`.

    A count of all tenants reads at most `web_max_queue_length` messages of each kind. If it ends there, it may not have
    seen all of a tenant: then that tenant's own are counted as well, up to its share.
    """

    def __init__(self, settings: Settings) -> None:
        self._most = settings.web_max_queue_length
        self._share = settings.web_max_queue_length_per_tenant
        self._reserve = max(1, min(self._most, self._share) // RESERVE)
        self._lock = threading.Lock()
        self._counted_at = -FRESH_S
        self._lengths: Counter[UUID | None] = Counter()
        #: Those whose own messages were counted since.
        self._known: set[UUID] = set()
        #: What waits, where no tenant counts for more than its share; and whether the count has seen all of it.
        self._total, self._complete = 0, True

    def check(self, connection: Connection, tenant_id: UUID) -> None:
        """Return if the tenant may submit one more task, and count that task.

        Raises:
            Problem: 429 or 503; the tenant's share of the queue is full, or all shares together.
        """
        queue = str(celery_app.conf.task_default_queue)
        self._count(connection, queue)
        if not (self._complete or tenant_id in self._known):
            self._count_own(connection, queue, tenant_id)
        with self._lock:
            waiting = self._lengths[tenant_id]
            if waiting >= self._share:
                raise refuse("tasks in the queue", "queue", of_tenant=True)
            if self._total >= self._most and waiting >= self._reserve:
                raise refuse("tasks in the queue", "queue", of_tenant=False)
            self._lengths[tenant_id] += 1
            self._total += 1

    def _count(self, connection: Connection, queue: str) -> None:
        with self._lock:
            if time.monotonic() - self._counted_at < FRESH_S:
                return
            self._counted_at = time.monotonic()
        found = Counter(operations.waiting_by_tenant(connection, queue, cap=self._most))
        with self._lock:
            self._lengths = found
            self._known.clear()
            self._total = sum(min(length, self._share) for length in found.values())
            self._complete = found.total() < self._most

    def _count_own(self, connection: Connection, queue: str, tenant_id: UUID) -> None:
        of_key = operations.key_status(connection, [queue], str(tenant_id), cap=self._share)
        own = sum(one.waiting for one in of_key)
        with self._lock:
            self._known.add(tenant_id)
            self._lengths[tenant_id] = max(self._lengths[tenant_id], own)
