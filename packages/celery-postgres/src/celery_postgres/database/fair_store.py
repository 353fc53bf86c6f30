"""The keys of fair queues: which have ready messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celery_postgres.database.flow import ReadyKey
from celery_postgres.database.store import Store

#: Before every key and priority.
BEGINNING = (-(2**63), -1)


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at fair queues has found.

    Attributes:
        greatest_id: of all messages.
        came: the keys of the newest messages, each with its queue.
        due: the keys of scheduled messages that are ready now.
        failed: the queues in which a message with a key waits that has failed before.
    """

    greatest_id: int
    came: Sequence[tuple[int, ReadyKey]] = ()
    due: Sequence[tuple[int, ReadyKey]] = ()
    failed: Sequence[int] = ()


class FairStore(Store):
    """Look for keys with ready messages."""

    #: Keys of one statement: 17 ms.
    KEYS = 500
    #: Ids of one statement, some milliseconds.
    NEWEST = 5000
    #: Scheduled messages of one statement.
    DUE = 1000

    def ready_keys(self, queue: int, after: tuple[int, int] = BEGINNING) -> list[ReadyKey]:
        """The next keys of a queue, at most `KEYS`.

        Args:
            after: the last key of the previous call, and 9 minus its priority.
        """
        key, low = after
        rows = self._run("ready_keys", queue=queue, after_key=key, after_low=low, limit=self.KEYS)
        return [ReadyKey(*row) for row in rows]

    def look(self, queues: Sequence[int], above: int) -> Look:
        """Make scheduled messages ready whose time has come, and look which keys have new messages.

        Args:
            above: of the newest only those with a greater id, and of the last `NEWEST` ids.
        """
        (*_, greatest, _, _, _, failed), *rows = self._run(
            "look_for_keys", queues=list(queues), above=above, newest=self.NEWEST, due=self.DUE
        )
        found = [(queue, ReadyKey(*key), bool(came)) for queue, *key, came, _ in rows]
        return Look(
            int(greatest),
            came=[(queue, key) for queue, key, came in found if came],
            due=[(queue, key) for queue, key, came in found if not came],
            failed=list(failed),
        )
