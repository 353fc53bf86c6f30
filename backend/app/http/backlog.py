"""How much waits in the queue: with too much, nothing more is taken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from uuid import UUID

from sqlalchemy import Connection, text

from app.celery_app import celery_app
from app.core.settings import Settings
from app.http.shares import refuse

#: Seconds for which a count is believed. What this process adds meanwhile it counts itself; others may overshoot.
FRESH_S = 0.5

# By the broker's own indexes, and never more rows than the limit.
_WAITING = text("""
    SELECT waiting.tenant_id, count(*)
    FROM public.kombu_queue AS queue
    CROSS JOIN LATERAL (
        (
            SELECT message.tenant_id FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NULL
            LIMIT :most
        )
        UNION ALL
        (
            SELECT message.tenant_id FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NOT NULL
            LIMIT :most
        )
    ) AS waiting
    WHERE queue.name = :queue
    GROUP BY waiting.tenant_id
""")


class Backlog:
    """The length of the queue, looked at now and then by whichever request comes along."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.web_max_queue_length
        self._most_per_tenant = settings.web_max_queue_length_per_tenant
        self._lock = threading.Lock()
        self._counted_at = -FRESH_S
        self._lengths: Counter[UUID | None] = Counter()

    def check(self, connection: Connection, tenant_id: UUID) -> None:
        """Return if the tenant may enqueue one more task, which then counts.

        Raises:
            Problem: 503 or 429; the queue is full, or the tenant's share of it.
        """
        with self._lock:
            due = time.monotonic() - self._counted_at >= FRESH_S
            if due:
                self._counted_at = time.monotonic()
        if due:
            parameters = {"queue": str(celery_app.conf.task_default_queue), "most": self._most}
            found = {row[0]: int(row[1]) for row in connection.execute(_WAITING, parameters)}
            with self._lock:
                self._lengths = Counter(found)
        with self._lock:
            if self._lengths.total() >= self._most:
                raise refuse("tasks in the queue", "queue", of_tenant=False)
            if self._lengths[tenant_id] >= self._most_per_tenant:
                raise refuse("tasks in the queue", "queue", of_tenant=True)
            self._lengths[tenant_id] += 1
