"""How often a monitor claims events."""

from __future__ import annotations

import time


class EventPace:
    """Of a connection that consumes nothing but events: once in `PAUSE_S` while events come, also when it is notified.

    Forty workers send twenty heartbeats a second, and thousands of events with tasks. A monitor that claims for each of
    them costs the server more than the events do, and a notification of each would take the lock that all commits with
    a notification share. So while a claim brings `MANY` events or more, the monitor is awake: publishers do not notify
    it, and it polls. With fewer each event notifies it.
    """

    PAUSE_S = 0.05
    MANY = 4

    def __init__(self) -> None:
        self._until = 0.0
        self._awake = False

    @property
    def left(self) -> float:
        """Seconds until the next claim may be sent."""
        return max(0.0, self._until - time.monotonic())

    def claimed(self, events: int) -> float | None:
        """A claim has brought so many events. Returns the seconds until the next one is due without a notification;
        None if one will come."""
        was_awake, self._awake = self._awake, events >= self.MANY
        self._until = time.monotonic() + self.PAUSE_S if events else 0.0
        # Once more after the last that brought many: a publisher may not have seen that this consumer sleeps again.
        return self.PAUSE_S if self._awake or was_awake else None
