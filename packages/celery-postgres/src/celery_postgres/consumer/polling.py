"""When to poll again after a claim has brought nothing."""

from __future__ import annotations

import time


class PollingBackoff:
    """Polls after 2, 10, 50 and 250 ms, then rests.

    A publisher whose transaction began before this consumer noted that it sleeps does not notify it. That publisher
    commits within milliseconds, or in a caller's transaction, which notifies anyway. With these polls instead of one
    after a second 1 of 7,394 publishes that would have waited a second does not.
    """

    STEPS_S = (0.002, 0.010, 0.050, 0.250)
    #: The first of them while another consumer leads.
    _RELIEVED_STEP = 2
    #: From then on the heartbeat checks for messages.
    REST_S = 10.0
    #: Where notifications do not arrive. A command and its reply each wait for a poll, and Celery's `inspect` and
    #: `control` wait one second.
    WITHOUT_NOTIFICATIONS_S = 0.4

    #: While messages are published more often than this, a consumer promises to poll: then it need not be notified.
    DENSE_S = 0.004
    #: How many promised polls may bring nothing before it sleeps.
    PROMISES = 6
    _LONGEST_S, _WEIGHT = 0.05, 0.1

    def __init__(self) -> None:
        self._step = self._promises = 0
        self.next = 0.0
        self._promised = self._found = 0.0
        self._highest_id = 0
        #: Between the latest two claims that brought messages nothing was published but what the second one brought.
        self._alone = True
        #: Seconds between two messages that are published, a moving average.
        self._between = self._LONGEST_S

    def restart(self) -> None:
        """Poll at once, and from the first step on."""
        self._step = self._promises = 0
        self.next = 0.0

    def promise(self) -> float:
        """In how many seconds to poll, if the next claim brings nothing and publishers may rely on it; 0 if not."""
        return self.STEPS_S[0] if self._step == 0 and self._promises < self.PROMISES and self.is_dense else 0.0

    @property
    def is_dense(self) -> bool:
        """Whether messages are published so often that polling costs less than notifications."""
        return self._between < self.DENSE_S

    @property
    def in_stream(self) -> bool:
        """Whether it is more than a client that sends one task after the other, each after the result of the last."""
        return self.is_dense and not self._alone

    def promised_s(self) -> float:
        """Seconds until a promised poll, before which there is none: a message that a poll sent too early does not see
        would wait while the messages that it does see are worked on."""
        return max(0.0, self._promised - time.monotonic()) if self._promised else 0.0

    def found(self, count: int, highest_id: int) -> None:
        """A claim has brought messages: poll at once, and from the first step on.

        Ids count what was published to all queues: of several consumers each sees how often it happens.
        """
        now = time.monotonic()
        published = max(count, highest_id - self._highest_id if self._highest_id else 0)
        between = min((now - self._found) / published, self._LONGEST_S)
        self._between = between + (self._between - between) * (1 - self._WEIGHT) ** min(published, 1000)
        self._alone = published == 1
        self._found, self._promised, self._highest_id = now, 0.0, max(highest_id, self._highest_id)
        self.restart()

    def found_nothing(self, due_in_s: float | None, promised_s: float = 0.0, *, relieved: bool = False) -> None:
        """A claim has brought nothing.

        Args:
            due_in_s: the seconds until the next scheduled message, if there is one.
            promised_s: publishers rely on a poll so many seconds from now.
            relieved: another consumer leads, and its claims find what came too late for this one.
        """
        self._promised = time.monotonic() + promised_s if promised_s else 0.0
        if relieved:
            self._step = max(self._step, self._RELIEVED_STEP)
        if promised_s:
            pause = promised_s
            self._promises += 1
        elif self._step < len(self.STEPS_S):
            pause = self.STEPS_S[self._step]
            self._step += 1
        else:
            pause = self.REST_S
        if due_in_s is not None:
            pause = min(pause, max(due_in_s, 0.0) + 0.001)
        self.next = time.monotonic() + pause

    def sooner(self, seconds: float | None) -> None:
        """Poll after so long, unless a poll comes before; None changes nothing."""
        if seconds is not None:
            self.next = min(self.next, time.monotonic() + seconds)
