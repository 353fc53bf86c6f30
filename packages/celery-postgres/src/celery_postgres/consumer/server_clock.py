"""Whether the clock of the database was set back, as far as its claims tell."""

from __future__ import annotations

import math
import time


class ServerClock:
    """Compares the server's clock with this process' monotonic one, which nothing sets.

    What runs of a key is counted from a time of the server (`FairRing.runs_since`). A server that takes over another's
    work may have a clock that is behind, and any clock may be set back: what others claim then is before that time.
    """

    #: A clock that is behind by less counts as right: the times that it guards are a second before what they stand for,
    #: of which this is a half. A claim that took longer to be sent makes the clock look set back, which costs one claim
    #: that counts all.
    SLACK_S = 0.5

    def __init__(self) -> None:
        #: The most by which the server's clock was ahead of the monotonic one. So a clock that is slowed down by 0.05 %
        #: is noticed too, after 1,000 s.
        self._ahead_s = -math.inf

    @property
    def earliest(self) -> float:
        """What the server's clock shows now at least, unless it was set back; 0 if nothing is known."""
        return max(0.0, time.monotonic() + self._ahead_s - self.SLACK_S)

    def shows(self, clock: float, asked_for: float, asked_at: float) -> bool:
        """A claim has read the server's clock. Returns whether it was set back.

        Args:
            clock: what it showed.
            asked_for: the `earliest` that the claim was sent with.
            asked_at: when it was sent, by the monotonic clock: the reading is younger, and so looks the more ahead.
        """
        if clock < asked_for:
            self._ahead_s = clock - asked_at
            return True
        self._ahead_s = max(self._ahead_s, clock - asked_at)
        return False

    def forget(self) -> None:
        """The next answer may come from another server."""
        self._ahead_s = -math.inf
