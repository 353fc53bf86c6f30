"""What any living consumer does for all of them: give back what the dead held, and keep the tables tidy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_postgres import observing
from celery_postgres.jitter import uniform
from celery_postgres.purging import clear_orphans, drop

if TYPE_CHECKING:
    from celery_postgres.session import Row, Session, Sessions

logger = logging.getLogger(__name__)

#: Messages of queues that are gone are rare, and in nobody's way.
CLEARING_S = 3600.0
#: Rows in one transaction.
BATCH = 1000


def release(
    session: Session | Sessions, claims: list[tuple[int, int]], max_failures: int, *, failed: bool = False
) -> int:
    """Give claims (message, fence) back; how many of them still stood. `failed`: Celery had them, and it counts."""
    count = 0
    for start in range(0, len(claims), BATCH):
        part = sorted(claims[start : start + BATCH])
        ((_, stood),) = session.run(
            "release",
            ids=[message for message, _ in part],
            fences=[fence for _, fence in part],
            failed=[failed] * len(part),
            available_at=[None] * len(part),
            max_failures=max_failures,
        )
        count += stood
    return count


class Upkeep:
    """Of one consumer; whoever else does the same at the same time does it with it, and nothing twice."""

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._next_clearing = time.monotonic() + CLEARING_S * uniform(0, 1)

    def rescue(self, session: Session, consumer: int, beat: int) -> None:
        """Remove a consumer that is dead, and let what it held run again."""
        if not session.run("remove_consumer", consumer=consumer, beat=beat):
            return  # another rescuer was first, or it lives
        rescued = self._release_of_gone(session)
        logger.warning("consumer %d is dead; %d of its messages run again", consumer, rescued)
        observing.lease_expired(rescued)

    def release_all(self, session: Session, consumer: int, *, failed: bool) -> int:
        """Give back what is claimed in the name of a consumer that claims no more; how much that was."""
        count = 0
        while claims := session.run("claims", consumer=consumer, most=BATCH):
            release(session, [(row[0], row[1]) for row in claims], self._max_failures, failed=failed)
            count += len(claims)
        return count

    def sweep(self, session: Session, beat: Callable[[Session], object]) -> None:
        """Look for queues and messages that are past their time, and for claims of nobody.

        :param beat: called between the statements: ten million messages of one queue take as long as it takes the
            others to find us dead.
        """

        def run(name: str, **parameters: Any) -> list[Row]:
            rows = session.run(name, **parameters)
            beat(session)
            return rows

        ((queues, messages),) = run("untidy")
        if queues:
            for (name,) in run("abandoned_queues"):
                drop(run, name, if_unused=True)
        if messages:
            while run("drop_expired_messages", most=BATCH)[0][0] == BATCH:
                pass
        self._release_of_gone(session)
        if time.monotonic() >= self._next_clearing:
            clear_orphans(run)
            self._next_clearing = time.monotonic() + CLEARING_S * uniform(0.8, 1.2)

    def _release_of_gone(self, session: Session) -> int:
        return sum(self.release_all(session, gone, failed=True) for gone, _ in session.run("gone_consumers"))
