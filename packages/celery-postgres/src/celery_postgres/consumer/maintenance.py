"""What any living consumer does for all of them: give back what the dead held, and keep the tables tidy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_postgres import observer
from celery_postgres.database.backoff import uniform
from celery_postgres.database.consumer_store import ConsumerStore
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.queue_store import QueueStore
from celery_postgres.errors import loggable

if TYPE_CHECKING:
    from celery_postgres.database.session import Row, Session

logger = logging.getLogger(__name__)

#: Messages of queues that are gone are rare, and in nobody's way.
CLEARING_S = 3600.0
#: The step that a dead consumer's tasks wait for, which each sweep does too.
RESCUE = "rescue of what the dead had claimed"


class Upkeep:
    """Of one consumer; whoever else does the same at the same time does it with it, and nothing twice."""

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._next_clearing = time.monotonic() + CLEARING_S * uniform(0, 1)
        #: Steps whose last attempt failed.
        self._failing: set[str] = set()

    def rescue(self, session: Session, consumer: int, beat: int) -> None:
        """Remove a consumer that is dead, and let what it held run again."""
        self._step(session, RESCUE, lambda: self._rescue(session, consumer, beat))

    def _rescue(self, session: Session, consumer: int, beat: int) -> None:
        if not ConsumerStore(session).remove(consumer, beat):
            return  # another rescuer was first, or it lives
        rescued = self._release_of_gone(session)
        logger.warning("consumer %d is dead; %d of its messages run again", consumer, rescued)
        observer.lease_expired(rescued)

    def sweep(self, session: Session, beat: Callable[[Session], object]) -> None:
        """Look for queues and messages that are past their time, and for claims of nobody.

        :param beat: called between the statements: ten million messages of one queue take as long as it takes the
            others to find us dead.
        """

        class Beating:
            """Raises the lease counter after each statement."""

            def run(self, name: str, **parameters: Any) -> list[Row]:
                rows = session.run(name, **parameters)
                beat(session)
                return rows

        queues = QueueStore(Beating())
        self._step(session, "removal of expired queues", queues.drop_expired)
        self._step(session, "removal of expired messages", MessageStore(Beating()).drop_expired)
        self._step(session, RESCUE, lambda: self._release_of_gone(session))
        if time.monotonic() >= self._next_clearing:
            self._step(session, "removal of orphaned messages", queues.clear_orphans)
            self._next_clearing = time.monotonic() + CLEARING_S * uniform(0.8, 1.2)

    def _step(self, session: Session, step: str, work: Callable[[], object]) -> None:
        """Do one step; the others go on when it fails, and whoever watches this process is told of it.

        Raises:
            what `work` raises, if the connection is lost: then no step could go on.
        """
        try:
            work()
        except Exception as error:
            if session.closed:
                raise
            if step not in self._failing:  # once, not with each sweep
                # No argument: the application's log leaves out texts that are arguments, but for those of errors.
                logger.error(f"maintenance: {step} fails (%s); the rest goes on", loggable(error))  # noqa: TRY400
            self._failing.add(step)
            observer.maintained(step, well=False)
            return
        if step in self._failing:
            self._failing.discard(step)
            logger.info(f"maintenance: {step} works again")
        observer.maintained(step, well=True)

    def _release_of_gone(self, session: Session) -> int:
        messages = MessageStore(session)
        return sum(
            messages.release_all(gone.consumer, self._max_failures, failed=True)
            for gone in ConsumerStore(session).gone()
        )
