"""Which other consumers are dead, as far as one observer can tell."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class _Seen:
    beat: int
    since: float


class Watch:
    """The counters of the others, as seen over one unbroken connection.

    Dead is who did not raise its counter for `LEASE_S`, or for `SILENCE_S` while its session is gone. Only time that
    this observer has watched counts, by its own monotonic clock: a server that was away, a failover, a stopped
    machine or a wrong clock makes nobody dead who lives.
    """

    LEASE_S = 30.0
    SILENCE_S = 5.0

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._last = 0.0

    def forget(self) -> None:
        """The connection broke: what was seen before does not count."""
        self._seen.clear()

    def observe(self, others: Iterable[tuple[int, int, bool]]) -> Iterator[tuple[int, int, bool]]:
        """Note `(consumer, counter, had a lock)` of all others; those to look after: `(consumer, counter, certain)`.

        Not certain are those that are dead only if their session is gone.
        """
        now = time.monotonic()
        if now - self._last > self.SILENCE_S:
            # We did not watch ourselves: stopped, or starved.
            self._seen.clear()
        self._last = now
        known, self._seen = self._seen, {}
        for consumer, beat, locked in others:
            seen = known.get(consumer)
            if seen is None or seen.beat != beat:
                self._seen[consumer] = _Seen(beat, now)
                continue
            self._seen[consumer] = seen
            silent = now - seen.since
            if silent >= self.LEASE_S:
                yield consumer, beat, True
            elif silent >= self.SILENCE_S and locked:
                yield consumer, beat, False
