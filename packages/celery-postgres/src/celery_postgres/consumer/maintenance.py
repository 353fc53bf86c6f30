"""What every living consumer does for all of them: rescue the messages of dead consumers, and keep the tables tidy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_postgres import observer
from celery_postgres.consumer import history
from celery_postgres.database.action_store import ActionStore
from celery_postgres.database.attempt_store import AttemptStore
from celery_postgres.database.backoff import uniform
from celery_postgres.database.consumer_store import ConsumerStore, Due, Removed
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.minute_store import MinuteStore, Retention
from celery_postgres.database.queue_store import QueueStore
from celery_postgres.database.store import Runner
from celery_postgres.errors import loggable

if TYPE_CHECKING:
    from celery_postgres.database.session import Row, Session

logger = logging.getLogger(__name__)

#: How often to look for messages of queues that no longer exist, and for attempts that are not kept any more. The first
#: are rare, and both slow down nothing.
ORPHANS_S = 3600.0
#: How often to do each step, whether or not there is something to do for it: a right that is missing is reported before
#: it is needed.
ALL_S = 300.0
#: How often to add up old counts of tasks.
COUNTS_S = 300.0
_KEPT = Retention()
#: The step that the tasks of dead consumers wait for; each round of maintenance does it too.
RESCUE = "rescue of dead consumers"


class Maintenance:
    """Runs in every consumer; concurrent runs share the work and never repeat it."""

    def __init__(self, max_failures: int, kept: Retention = _KEPT) -> None:
        self._max_failures, self._kept = max_failures, kept
        self._next_all = 0.0
        self._next_counts = time.monotonic() + COUNTS_S * uniform(0, 1)
        self._next_orphans = time.monotonic() + ORPHANS_S * uniform(0, 1)
        #: Steps whose latest attempt failed.
        self._failing: set[str] = set()

    def rescue(self, session: Session, consumer: int, counter: int) -> None:
        """Remove a dead consumer, and release its claims as failures of their messages."""
        self._step(session, RESCUE, lambda: self._rescue(session, consumer, counter))

    def _rescue(self, session: Session, consumer: int, counter: int) -> None:
        removed = ConsumerStore(session).remove(consumer, counter)
        if removed is None:
            return  # another consumer was first, or it lives
        # Before the release: then only what was acknowledged early has no message. A step of its own, as below.
        self._step(session, "record of lost tasks", lambda: AttemptStore(session).remember_lost(removed))
        rescued = self._release_orphaned_claims(session, removed)
        logger.warning(
            "Consumer %d is dead; its %d messages run again", consumer, rescued, extra={"consumer": consumer}
        )
        observer.lease_expired(rescued)
        # A step of its own: its failure, for example for a missing right, must not count as one of the rescue.
        self._step(session, "record of lost workers", lambda: ConsumerStore(session).note_lost(removed, rescued))

    def run(self, session: Session, beat: Callable[[Session], object]) -> None:
        """Remove expired queues and messages, and release the claims of consumers that are gone, if there are any.

        Args:
            beat: called after each statement. Without heartbeats the other consumers would find this one dead while it
                deletes ten million messages of one queue.
        """

        class Beating:
            """Raises the counter after each statement."""

            def run(self, name: str, **parameters: Any) -> list[Row]:
                rows = session.run(name, **parameters)
                beat(session)
                return rows

        queues, messages, limits = QueueStore(Beating()), MessageStore(Beating()), LimitStore(Beating())
        due = self._look(session)
        for step, is_due, work in (
            ("removal of expired queues", due.queues, queues.drop_expired),
            ("removal of expired messages", due.messages, messages.drop_expired),
            ("removal of idle throttles", due.throttles, limits.drop_idle_throttles),
            ("conversion of queues that are no longer fair", due.keys, limits.clear_unfair),
            (RESCUE, due.claims, lambda: self._release_orphaned_claims(session)),
        ):
            if is_due or step in self._failing:
                self._step(session, step, work)
        if time.monotonic() >= self._next_counts:
            self._step(session, "summary of counts", lambda: MinuteStore(Beating()).tidy(self._kept))
            self._next_counts = time.monotonic() + COUNTS_S * uniform(0.8, 1.2)
        if time.monotonic() >= self._next_orphans:
            self._step(session, "removal of orphaned messages", queues.clear_orphans)
            self._step(session, "removal of old attempts", lambda: history.drop_old(Beating()))
            if (actions_s := self._kept.actions_s) is not None:
                self._step(session, "removal of old actions", lambda: ActionStore(Beating()).drop_old(actions_s))
            self._next_orphans = time.monotonic() + ORPHANS_S * uniform(0.8, 1.2)

    def _look(self, session: Session) -> Due:
        """Look what there is to do. If that fails, everything: then the step whose part of the look it was says so."""
        if time.monotonic() < self._next_all:
            try:
                return ConsumerStore(session).due()
            except Exception:
                if session.closed:
                    raise
        self._next_all = time.monotonic() + ALL_S * uniform(0.8, 1.2)
        return Due()

    def _step(self, session: Session, step: str, work: Callable[[], object]) -> None:
        """Do one step. If it fails it is reported, once, and the other steps go on.

        Raises:
            Exception: what `work` raises, if the connection is lost: then no step could go on.
        """
        try:
            work()
        except Exception as error:
            if session.closed:
                raise
            if step not in self._failing:
                logger.error(  # noqa: TRY400  without the stack: it could quote a row
                    "Maintenance: the %s fails (%s); the other steps go on", step, loggable(error), extra={"step": step}
                )
            self._failing.add(step)
            observer.maintained(step, well=False)
            return
        if step in self._failing:
            self._failing.discard(step)
            logger.info("Maintenance: the %s works again", step, extra={"step": step})
        observer.maintained(step, well=True)

    def _release_orphaned_claims(self, runner: Runner, removed: Removed | None = None) -> int:
        messages, gone = MessageStore(runner), ConsumerStore(runner).gone()
        known = {} if removed is None else {removed.consumer: removed.name or removed.hostname}
        return sum(
            messages.release_all(one.consumer, self._max_failures, failed=True, worker=known.get(one.consumer))
            for one in gone
        )
