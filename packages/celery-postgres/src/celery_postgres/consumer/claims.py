"""What this process has claimed and handed over, until it is settled."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

from celery_postgres.consumer.counting import Tally
from celery_postgres.consumer.early_acks import EarlyAcks
from celery_postgres.consumer.pending_acks import PendingAcks
from celery_postgres.database import driver
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.dead_letter import REJECTED, DeadLetterReason
from celery_postgres.database.message_store import Claim, MessageStore
from celery_postgres.database.per_process import PerProcess
from celery_postgres.database.pool import Sessions
from celery_postgres.errors import SchemaError

logger = logging.getLogger(__name__)

#: What finds the tasks that prefork children have finished, and carries their claims.
_collectors: PerProcess[list[Callable[[], None]]] = PerProcess(list)


def collect_with(collector: Callable[[], None]) -> None:
    """Call `collector` in this process before it is decided what becomes of a claim."""
    _collectors.value.append(collector)


class Claims:
    """The claims of one process in one database: delivered, acknowledged, or carried by the writer of a result.

    Every thread may call the methods above the line, the heartbeat's thread those below it.

    Attributes:
        pending: acks that are not sent yet.
        early: the latest acks of tasks that are acknowledged before they run.
        max_failures: the number of failures after which a message is a dead letter.
        tally: what counts the tasks of delivered messages; None if nothing does.
    """

    #: How many maintenance rounds reconcile after an answer was lost, so that the youngest claim is old enough to be
    #: found.
    _RECONCILIATIONS = 3
    #: Between two runs of a task after which something could not be sent: the first pause, and the longest.
    _PAUSES_S = 1.0, 30.0
    #: More than tasks end at a time. Those that Celery never acknowledges, after a lost connection, must not stay.
    _MOST_EARLY = 1000

    def __init__(
        self, sessions: Sessions, max_failures: int, wake: Callable[[], None], ended: Callable[[], None]
    ) -> None:
        """No claims yet.

        Args:
            wake: tells the heartbeat that there is work before its next beat.
            ended: is called after claims that were carried have been settled.
        """
        self.max_failures = max_failures
        self.pending = PendingAcks()
        self.early = EarlyAcks()
        self.tally: Tally | None = None
        self._messages = MessageStore(sessions)
        self._wake = wake
        self._ended = ended
        self._delivered: set[Claim] = set()
        #: The delivered claims that the recording of the task's result will settle.
        self._carried: set[Claim] = set()
        #: Settled before Celery has acknowledged them.
        self._settled_early: set[Claim] = set()
        self._postponed: deque[Callable[[MessageStore], None]] = deque()
        self._reconciliations = 0
        self._runs_again = Backoff(*self._PAUSES_S)

    @property
    def any_delivered(self) -> bool:
        """Whether a delivered message is not settled."""
        return bool(self._delivered)

    def holds(self, claim: Claim) -> bool:
        """Whether a delivered message is not settled."""
        return claim in self._delivered

    def deliver(self, claim: Claim) -> None:
        """The message goes to Celery, or to the program."""
        self._delivered.add(claim)

    def ack(self, claim: Claim, mark: str | None = None) -> None:
        """Acknowledge a message, unless its claim is carried.

        Args:
            mark: of a task that is acknowledged before it runs: what its publisher has put into the message.
        """
        if claim in self._carried:
            return
        if claim in self._settled_early:
            self._settled_early.discard(claim)
            return
        if mark is None:  # a task that is acknowledged early has not begun
            self.collect()
            if claim in self._carried:
                return
        self._delivered.discard(claim)
        if mark is not None:
            self.early.add(*claim, mark)
        if self.pending.add(claim):
            self._wake()

    def carry(self, claim: Claim) -> bool:
        """Leave it to the caller to delete this message, in the transaction that stores its result. The caller then
        calls `settled`.

        Returns:
            Whether the claim is this process's to settle.
        """
        if claim not in self._delivered:
            return False
        self._carried.add(claim)
        return True

    def collect(self) -> None:
        """Carry the claims of the tasks that children have finished."""
        for collector in _collectors.value:
            collector()

    def is_carried(self, claim: Claim) -> bool:
        return claim in self._carried

    def settled(self, claims: Iterable[Claim], *, early: bool = False) -> None:
        """The caller has settled these claims, which it carried.

        Args:
            early: Celery acknowledges them after this. Sent once more, such an ack would only wake the heartbeat.
        """
        claims = [one for one in claims if one in self._carried]
        if early:
            if len(self._settled_early) >= self._MOST_EARLY:
                self._settled_early.clear()
            self._settled_early.update(claims)
        self._delivered.difference_update(claims)
        self._carried.difference_update(claims)
        self._ended()

    def reject(self, claim: Claim) -> None:
        """Make the message a dead letter, unless its claim is carried; later, if the database cannot be reached now."""
        self.collect()
        if claim in self._carried:
            return
        self._delivered.discard(claim)
        self._now_or_later(lambda messages: messages.bury([(claim, REJECTED)]))

    def requeue(self, claim: Claim, *, pauses: bool = False) -> None:
        """Release the claim as a failure of the message, unless it is carried: its child died after its task had ended.
        Later, if the database cannot be reached now.

        Args:
            pauses: it is no failure: a database was unreachable. The message is available after a pause, which grows
                while that goes on.
        """
        self.collect()
        if claim in self._carried:
            return
        self._delivered.discard(claim)
        pause_s = self._pause() if pauses else 0.0
        self._now_or_later(lambda messages: self.release([claim], messages, failed=not pauses, pause_s=pause_s))

    def requeue_later(self, claim: Claim) -> None:
        """The same with a pause, in the heartbeat's thread; until then an ack of this claim has no effect."""
        self._carried.add(claim)
        pause_s = self._pause()

        def requeue(messages: MessageStore) -> None:
            self.release([claim], messages, pause_s=pause_s)
            self.settled([claim])

        self._later(requeue)

    def give_back(self, claims: list[Claim]) -> None:
        """Release delivered messages on which no task works; later, if the database cannot be reached now."""
        self._delivered.difference_update(claims)
        self._now_or_later(lambda messages: self.release(claims, messages))

    def bury(self, claim: Claim, reason: DeadLetterReason) -> None:
        """Make the message a dead letter, now."""
        self._messages.bury([(claim, reason)])
        self._delivered.discard(claim)

    def _pause(self) -> float:
        """What is left of the pause before, so that all that end in it run again at its end. The next is longer."""
        return self._runs_again.left or self._runs_again.failed()

    def release(
        self, claims: list[Claim], messages: MessageStore | None = None, *, failed: bool = False, pause_s: float = 0.0
    ) -> None:
        """Release claims, now.

        Args:
            failed: Celery had the messages, and this counts as a failure of each.
            pause_s: the seconds until the messages are available.
        """
        try:
            (messages or self._messages).release(claims, self.max_failures, failed=failed, pause_s=pause_s)
        except BaseException:
            self.reconcile_soon()  # no buffer and no channel has them any more
            raise

    def reconcile_soon(self) -> None:
        """The reply was lost: the database may record claims that this process does not know about."""
        self._reconciliations = self._RECONCILIATIONS

    def _now_or_later(self, work: Callable[[MessageStore], None]) -> None:
        try:
            work(self._messages)
        except (driver.Error, SchemaError):
            self._later(work)

    def _later(self, work: Callable[[MessageStore], None]) -> None:
        self._postponed.append(work)
        self._wake()

    # -- in the heartbeat's thread

    def settle_pending(self, messages: MessageStore) -> None:
        """Send the pending acks."""
        if len(self.pending):
            with self.pending.sending() as acks:
                messages.settle(acks)

    def do_postponed(self, messages: MessageStore) -> None:
        """Do what could not be done when it was asked for."""
        while self._postponed:
            self._postponed[0](messages)
            self._postponed.popleft()

    def lose(self) -> None:
        """Other consumers have taken over everything, or soon will."""
        self._delivered.clear()
        self._carried.clear()
        self._settled_early.clear()

    def reconcile_if_needed(self, messages: MessageStore, consumer: int, buffered: Callable[[], set[Claim]]) -> None:
        """Release what is claimed by this consumer and known to no part of this process.

        Args:
            buffered: the claims in the prefetch buffers.
        """
        if not self._reconciliations:
            return
        self._reconciliations -= 1
        claimed = messages.old_claims(consumer)
        # In this order: what is known now was so when it was claimed, more than 10 s ago.
        known = self._delivered | self.pending.known() | buffered()
        lost = [claim for claim in claimed if claim not in known]
        forgotten = self.early.forgotten
        ended = [claim for claim in lost if claim[0] in forgotten and forgotten[claim[0]][0] == claim[1]]
        if ended:
            messages.settle(ended)
            lost = [claim for claim in lost if claim not in ended]
        if lost:
            logger.warning("Releasing %d messages whose delivery was lost with a connection", len(lost))
            self.release(lost, messages)
