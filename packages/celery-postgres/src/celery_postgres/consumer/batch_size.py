"""How many messages to claim at once."""

from __future__ import annotations

import time


class BatchSize:
    """Work for about `AHEAD_S`, by a moving average of the time that one message takes.

    The time that a message takes is the time between two acks while the worker has messages, whatever its pool.
    """

    AHEAD_S = 0.05
    LIMIT = 500
    #: The limit for each queue that is consumed without acks.
    AUTO_ACK_LIMIT = 100
    _WEIGHT = 0.1

    def __init__(self) -> None:
        self._average: float | None = None
        self._idle_until = 0.0
        self._last_ack = 0.0

    def delivered(self) -> None:
        """A message goes to a worker that had none."""
        self._idle_until = time.monotonic()

    def acked(self) -> None:
        now = time.monotonic()
        took = now - max(self._last_ack, self._idle_until)
        self._last_ack = now
        self._average = took if self._average is None else self._average + self._WEIGHT * (took - self._average)

    def stalled(self) -> None:
        """Messages have been buffered for a second: this worker is slower than expected."""
        self._average = 1.0
        self._last_ack = time.monotonic()

    def within(self, seconds: float) -> int:
        """How many messages take so long together."""
        return 0 if self._average is None else min(self.LIMIT, int(seconds / max(self._average, 1e-5)))

    def ahead(self) -> int:
        """How many messages to buffer beyond those that may be delivered at once."""
        if self._average is None:
            return 1
        return min(self.LIMIT, int(self.AHEAD_S / max(self._average, 1e-5)))
