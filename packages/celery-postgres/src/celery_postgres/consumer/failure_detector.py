"""Which other consumers are dead, as far as one observer can tell."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from celery_postgres.database import keepalive
from celery_postgres.database.consumer_store import Other
from celery_postgres.database.options import UNRESPONSIVE_S


@dataclass(slots=True)
class _Seen:
    counter: int
    since: float


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A consumer whose counter stands still.

    Attributes:
        certain: it is dead. Otherwise it is dead only if its session is gone.
    """

    consumer: int
    counter: int
    certain: bool


class FailureDetector:
    """The counters of the other consumers, as seen over one unbroken connection.

    A consumer is dead when its counter has not advanced for `SILENCE_S` and its session is gone, or for `LEASE_S` and
    nothing else shows that it lives. A session shows that where the server has the process's own socket at the other
    end: the two kernels ask each other, and the server ends the session of a process that is silent for as long as a
    lease. A heartbeat thread that could not run shows less, because a task may hold Python's lock for minutes (a
    regular expression, a C library). So there the counter may stand still for `unresponsive_s`: a process that hangs or
    is stopped has a session too.

    Only time that this observer has watched counts, by its own monotonic clock: an unreachable server, a failover, a
    stopped machine or a wrong clock makes no living consumer dead.

    Attributes:
        gone: how many consumers have left, or were found dead: what they had claimed was released before.
    """

    LEASE_S = float(keepalive.LEASE_S)
    SILENCE_S = 5.0

    def __init__(self, unresponsive_s: float = UNRESPONSIVE_S) -> None:
        self._unresponsive_s = unresponsive_s
        self._seen: dict[int, _Seen] = {}
        self._last = 0.0
        self.gone = 0

    def forget(self) -> None:
        """The connection broke: what was seen before does not count."""
        self._seen.clear()

    def observe(self, others: Iterable[Other]) -> Iterator[Suspicion]:
        """Note the counters of all others. Yields those that stand still for too long."""
        now = time.monotonic()
        if now - self._last > self.SILENCE_S:
            # This observer did not watch: it was stopped, or starved.
            self._seen.clear()
        self._last = now
        known, self._seen = self._seen, {}
        for other in others:
            seen = known.get(other.consumer)
            if seen is None or seen.counter != other.counter:
                self._seen[other.consumer] = _Seen(other.counter, now)
                continue
            self._seen[other.consumer] = seen
            silent_s = now - seen.since
            if silent_s >= (self._unresponsive_s if other.has_session and other.direct else self.LEASE_S):
                yield Suspicion(other.consumer, other.counter, certain=True)
            elif silent_s >= self.SILENCE_S and other.has_session:
                yield Suspicion(other.consumer, other.counter, certain=False)
        self.gone += len(known.keys() - self._seen.keys())
