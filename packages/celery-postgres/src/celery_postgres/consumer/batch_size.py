"""How much a worker takes at once, and when it looks again."""

from __future__ import annotations

import time


class Pace:
    """The size of a batch: work for about `AHEAD_S`, by a moving average of the time that one message takes.

    One message costs a worker the time between two acks while it has something to do, whatever its pool.
    """

    AHEAD_S = 0.05
    MOST = 500
    #: Of what is consumed without acks, from each queue.
    MOST_EATEN = 100
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
        """What was buffered has lain for a second: this worker is slower than was thought."""
        self._average = 1.0
        self._last_ack = time.monotonic()

    def ahead(self) -> int:
        """How many messages to buffer beyond what may be delivered at once."""
        if self._average is None:
            return 1
        return min(self.MOST, int(self.AHEAD_S / max(self._average, 1e-5)))


class Ladder:
    """When to look again after finding nothing.

    A publisher whose transaction began before we said that we sleep does not notify us. It commits within
    milliseconds, or has a caller's transaction around it and notifies anyway: with looks after 2, 10, 50 and 250 ms
    instead of after one second 1 of 7,394 publishes that would have waited a second does not.
    """

    STEPS_S = (0.002, 0.010, 0.050, 0.250)
    #: From then on the attendant looks, with each beat.
    REST_S = 10.0
    #: Where notifications do not arrive. An order and its reply each wait for a look, and Celery's `inspect` and
    #: `control` wait one second.
    POLL_S = 0.4

    def __init__(self) -> None:
        self._step = 0
        self.next = 0.0

    def restart(self) -> None:
        """Look at once, and from the first step on."""
        self._step = 0
        self.next = 0.0

    def climb(self, due_in: float | None) -> None:
        """Nothing was found; the next timed message is due in so many seconds, if there is one."""
        if self._step < len(self.STEPS_S):
            pause = self.STEPS_S[self._step]
            self._step += 1
        else:
            pause = self.REST_S
        if due_in is not None:
            pause = min(pause, max(due_in, 0.0) + 0.001)
        self.next = time.monotonic() + pause
