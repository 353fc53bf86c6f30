"""Acknowledgements that wait for their round trip."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from celery_postgres.database.message_store import Claim


class PendingAcks:
    """Noted by whichever thread ends a task; sent with the next claim, or by the heartbeat."""

    #: An ack that no claim took along for so long is sent alone. A longer wait lets a kill -9 repeat finished tasks.
    FLUSH_AFTER_S = 0.005

    def __init__(self) -> None:
        self._lock = threading.RLock()  # QUIT ends tasks in its signal handler
        self._acks: list[Claim] = []
        self._sent: set[Claim] = set()
        self._oldest = 0.0

    def __len__(self) -> int:
        return len(self._acks)

    def add(self, claim: Claim) -> bool:
        """Note an ack; whether it is the first of a new batch."""
        with self._lock:
            first = not self._acks
            if first:
                self._oldest = time.monotonic()
            self._acks.append(claim)
            return first

    def age(self) -> float:
        """Seconds since the oldest was noted; 0 if there is none."""
        return time.monotonic() - self._oldest if self._acks else 0.0

    @contextlib.contextmanager
    def sending(self) -> Iterator[list[Claim]]:
        """The acks that the block sends, by id: transactions that delete in one order never deadlock. After an error
        they are pending again."""
        with self._lock:
            acks, self._acks = self._acks, []
            self._sent.update(acks)
        acks.sort()
        try:
            yield acks
        except BaseException:
            self._put_back(acks)
            raise
        self._sent.difference_update(acks)

    def _put_back(self, acks: list[Claim]) -> None:
        if acks:
            with self._lock:
                self._sent.difference_update(acks)
                if not self._acks:
                    self._oldest = time.monotonic()
                self._acks[:0] = acks

    def known(self) -> set[Claim]:
        """Every ack that may not have arrived."""
        with self._lock:
            return self._sent | set(self._acks)
