"""The latest acks of tasks that were acknowledged before they ran."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict


class EarlyAcks:
    """Tasks that this process acknowledged before they ran, and which must not run again.

    A server that crashes forgets acks of its last 0.6 s, and often the claims as well, since no commit of them waits
    for the disk. Their messages are ready again, or claimed by a process that has ended them. So after a crash this
    process acknowledges again what it has acknowledged since its last heartbeat, and `KEPT_S` before. A mark is what
    the publisher has put into the message: after a crash the same id may be another message's.

    Any thread may call any method.

    Attributes:
        forgotten: of these acks, what the server may have forgotten in its latest crash: message → (fence, mark).
    """

    KEPT_S = 3.0
    LIMIT = 20_000

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._acked: OrderedDict[int, tuple[float, int, str]] = OrderedDict()
        self.forgotten: dict[int, tuple[int, str]] = {}

    def add(self, message: int, fence: int, mark: str) -> None:
        with self._lock:
            self._acked[message] = time.monotonic(), fence, mark
            if len(self._acked) > self.LIMIT:
                self._acked.popitem(last=False)

    def has_ended(self, message: int, mark: object) -> bool:
        """Whether this process had acknowledged that message before it ran, and a server that crashed has forgotten it.

        A thread may have claimed the message before the heartbeat has found out about the crash.
        """
        found = self.forgotten.get(message)
        if found is None and message in self._acked:
            found = self._acked[message][1:]
        return found is not None and found[1] == mark

    def expire(self) -> None:
        """A heartbeat has succeeded: what is older than `KEPT_S` is certain."""
        limit = time.monotonic() - self.KEPT_S
        with self._lock:
            while self._acked and next(iter(self._acked.values()))[0] < limit:
                self._acked.popitem(last=False)

    def take(self) -> dict[int, tuple[int, str]]:
        """Remove and return all of them: message → (fence, mark)."""
        with self._lock:
            acked, self._acked = self._acked, OrderedDict()
        return {message: (fence, mark) for message, (_, fence, mark) in acked.items()}

    def recall(self, *, went_back: bool) -> dict[int, str]:
        """The marks of the messages to acknowledge again after a lost connection, by message.

        Args:
            went_back: the database went back in time, beyond what a crash forgets: then nothing is known about it.
        """
        acked = self.take()
        self.forgotten = {} if went_back else acked
        return {message: mark for message, (_, mark) in self.forgotten.items()}
