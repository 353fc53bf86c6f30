"""The keys of fair queues: which have ready messages."""

from __future__ import annotations

from collections.abc import Sequence

from celery_postgres.database.flow import ReadyKey
from celery_postgres.database.store import Store

#: Before every key and priority.
BEGINNING = (-(2**63), -1)


class FairStore(Store):
    """Look for keys with ready messages."""

    #: Keys of one statement: 17 ms.
    KEYS = 500
    #: Ids of one statement, some milliseconds.
    NEWEST = 5000

    def ready_keys(self, queue: int, after: tuple[int, int] = BEGINNING) -> list[ReadyKey]:
        """The next keys of a queue, at most `KEYS`.

        Args:
            after: the last key of the previous call, and 9 minus its priority.
        """
        key, low = after
        rows = self._run("ready_keys", queue=queue, after_key=key, after_low=low, limit=self.KEYS)
        return [ReadyKey(*row) for row in rows]

    def newest_keys(self, queues: Sequence[int], above: int) -> tuple[int, list[tuple[int, ReadyKey]]]:
        """The greatest id, and the keys of the messages that came last, each with its queue.

        Args:
            above: only of messages with a greater id, and only of the last `NEWEST` ids.
        """
        (_, _, _, greatest, _), *rows = self._run("newest_keys", queues=list(queues), above=above, limit=self.NEWEST)
        return int(greatest), [(queue, ReadyKey(*key)) for queue, *key in rows]

    def promote_due(self, queues: Sequence[int]) -> int:
        """Make scheduled messages ready whose time has come, at most 1,000. Returns how many."""
        ((_, count),) = self._run("promote_due", queues=list(queues), limit=1000)
        return int(count)
