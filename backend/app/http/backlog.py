"""How much waits in the queue: with too much, nothing more is taken."""

from __future__ import annotations

import threading
import time

from sqlalchemy import Connection, text

from app.celery_app import celery_app
from app.core.settings import Settings
from app.http.problems import unavailable

#: Seconds for which a count is believed; within them the limit may be overshot.
FRESH_S = 0.5
RETRY_AFTER_S = 5

# By the broker's own indexes, and never more rows than the limit.
_WAITING = text("""
    SELECT coalesce(sum(waiting.count), 0)
    FROM public.kombu_queue AS queue
    CROSS JOIN LATERAL (
        SELECT count(*) FROM (
            SELECT FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NULL
            LIMIT :most
        ) AS ready
        UNION ALL
        SELECT count(*) FROM (
            SELECT FROM public.kombu_message AS message
            WHERE message.queue_id = queue.id AND message.visible AND message.available_at IS NOT NULL
            LIMIT :most
        ) AS timed
    ) AS waiting
    WHERE queue.name = :queue
""")


class Backlog:
    """The length of the queue, looked at now and then by whichever request comes along."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.web_max_queue_length
        self._lock = threading.Lock()
        self._counted_at = -FRESH_S
        self._length = 0

    def check(self, connection: Connection) -> None:
        """Return if one more task may be enqueued.

        Raises:
            Problem: 503; the queue is full.
        """
        with self._lock:
            due = time.monotonic() - self._counted_at >= FRESH_S
            if due:
                self._counted_at = time.monotonic()
        if due:
            parameters = {"queue": str(celery_app.conf.task_default_queue), "most": self._most}
            self._length = int(connection.execute(_WAITING, parameters).scalar_one())
        if self._length >= self._most:
            raise unavailable("the queue is full", "queue-full", RETRY_AFTER_S)
