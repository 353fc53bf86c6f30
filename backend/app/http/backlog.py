"""The limit on waiting tasks: with too many, submissions are refused."""

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


class Backlog:
    """The length of the queue, counted anew by the first request after `FRESH_S`."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.web_max_queue_length
        self._most_per_tenant = settings.web_max_queue_length_per_tenant
        self._lock = threading.Lock()
        self._counted_at = -FRESH_S
        self._lengths: Counter[UUID | None] = Counter()

    def check(self, connection: Connection, tenant_id: UUID) -> None:
        """Return if the tenant may submit one more task, and count that task.

        Raises:
            Problem: 503 or 429; the queue is full, or the tenant's share of it.
        """
        with self._lock:
            due = time.monotonic() - self._counted_at >= FRESH_S
            if due:
                self._counted_at = time.monotonic()
        if due:
            queue = str(celery_app.conf.task_default_queue)
            waiting = operations.waiting_by_tenant(connection, queue, cap=self._most)
            with self._lock:
                self._lengths = Counter(waiting)
        with self._lock:
            if self._lengths.total() >= self._most:
                raise refuse("tasks in the queue", "queue", of_tenant=False)
            if self._lengths[tenant_id] >= self._most_per_tenant:
                raise refuse("tasks in the queue", "queue", of_tenant=True)
            self._lengths[tenant_id] += 1
