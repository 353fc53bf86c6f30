"""Which other consumers are dead, as far as one observer can tell."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_postgres.database.consumer_store import Other


@dataclass(slots=True)
class _Seen:
    beat: int
    since: float


class Watch:
    """The counters of the others, as seen over one unbroken connection.

    Dead is who did not raise its counter for `SILENCE_S` while its session is gone, or for `LEASE_S` while nothing else
    shows that it lives. A session that is there shows that, where the server has the process' own socket at the other
    end: the two kernels ask each other, and the server ends the session of one that is silent for as long as a lease. A
    thread that could not run says less, because a task may hold Python's lock for minutes (a regular expression, a C
    library). So there the counter may stand for `unresponsive_s`: a process that hangs or is stopped has a session too.

    Only time that this observer has watched counts, by its own monotonic clock: a server that was away, a failover, a
    stopped machine or a wrong clock makes nobody dead who lives.
    """

    LEASE_S = 30.0
    SILENCE_S = 5.0
    UNRESPONSIVE_S = 600.0

    def __init__(self, unresponsive_s: float = UNRESPONSIVE_S) -> None:
        self._unresponsive_s = unresponsive_s
        self._seen: dict[int, _Seen] = {}
        self._last = 0.0

    def forget(self) -> None:
        """The connection broke: what was seen before does not count."""
        self._seen.clear()

    def observe(self, others: Iterable[Other]) -> Iterator[tuple[int, int, bool]]:
        """Note the counters of all others; those to look after: `(consumer, counter, certain)`.

        Not certain are those that are dead only if their session is gone.
        """
        now = time.monotonic()
        if now - self._last > self.SILENCE_S:
            # We did not watch ourselves: stopped, or starved.
            self._seen.clear()
        self._last = now
        known, self._seen = self._seen, {}
        for other in others:
            consumer, beat = other.consumer, other.counter
            seen = known.get(consumer)
            if seen is None or seen.beat != beat:
                self._seen[consumer] = _Seen(beat, now)
                continue
            self._seen[consumer] = seen
            silent = now - seen.since
            if silent >= (self._unresponsive_s if other.has_session and other.direct else self.LEASE_S):
                yield consumer, beat, True
            elif silent >= self.SILENCE_S and other.has_session:
                yield consumer, beat, False
