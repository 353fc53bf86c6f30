"""Whether queues grow or drain: what waits now beside what waited up to a minute ago, as this process has read it.

The tables know no rates. So a trend is there as soon as somebody has looked for ten seconds, and only where both counts
are whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from celery_postgres.database.queue_view_store import Queue

#: Seconds between two samples that are kept, and from the oldest to now.
SPACING_S, SPAN_S = 10.0, 60.0


class Trend:
    """Remembers how much waited. Not for two threads at once."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, int]]] = deque()

    def of(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """The same queues, each with how much it grows in a minute.

        Args:
            queues: as read now.
            now: by a monotonic clock.
        """
        found = list(queues)
        while len(self._samples) > 1 and self._samples[1][0] <= now - SPAN_S:
            self._samples.popleft()
        # Nobody looked for minutes: what was then says nothing of now.
        if self._samples and self._samples[0][0] < now - 2 * SPAN_S:
            self._samples.clear()
        grown = [self._grown(one, now) for one in found]
        if not self._samples or self._samples[-1][0] <= now - SPACING_S:
            self._samples.append((now, {one.name: one.waiting.number for one in found if not one.waiting.or_more}))
        return grown

    def _grown(self, queue: Queue, now: float) -> Queue:
        if not self._samples or queue.waiting.or_more:
            return queue
        then, waiting = self._samples[0]
        if queue.name not in waiting or now - then < SPACING_S:
            return queue
        return replace(queue, growth_per_min=(queue.waiting.number - waiting[queue.name]) * 60 / (now - then))
