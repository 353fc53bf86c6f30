"""When publishers need to wake nobody, because this consumer leads: it claims again and again, within milliseconds."""

from __future__ import annotations

import time

#: How long publishers rely on a claim that leads. On a busy machine a publish takes 10 ms, and so does the way to the
#: processor: while it was 2 ms, each of 450 publishes a second sent a wake-up all the same.
LEAD_S = 0.03
#: A claim that brings work for no longer than this leads: the next one comes soon.
BRIEF_S = 0.008
#: While the latest claim is no older, the heartbeat looks whether the next one is overdue.
WATCHED_S = 1.0


class Lead:
    """One of a connection that consumes. The heartbeat's thread calls `overdue` and `is_watched`."""

    def __init__(self) -> None:
        self._relied_until = self._led = 0.0
        #: The `_relied_until` of which `overdue` has returned True, or that was taken back.
        self._over = 0.0

    def taken(self) -> None:
        """A claim has brought nothing, or work that is done soon, and publishers rely on the next one."""
        self._led = time.monotonic()
        self._relied_until = self._led + LEAD_S

    def ended(self) -> None:
        """This consumer sleeps, and polls for what is committed by publishers that have relied on it."""
        self._over = self._relied_until

    @property
    def is_relied_on(self) -> bool:
        """Whether publishers may have woken nobody because of this consumer."""
        return self._relied_until != self._over

    @property
    def is_watched(self) -> bool:
        return time.monotonic() - self._led < WATCHED_S

    def overdue(self) -> bool:
        """Whether the next claim has not come in time: a task takes longer than those before. True once."""
        relied_until = self._relied_until
        if relied_until == self._over or time.monotonic() < relied_until:
            return False
        self._over = relied_until
        return True
