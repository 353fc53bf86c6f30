"""The thread that keeps a consuming process alive in the eyes of the others.

The main thread may be inside a task for hours (the solo pool). So one thread, on one connection of its own, raises
the counter, delivers acks that wait, gives back what nobody works on, rescues what the dead left, and tidies up.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg2

from celery_postgres.consumer.claims import Ledger
from celery_postgres.consumer.failure_detector import Watch
from celery_postgres.consumer.maintenance import Upkeep
from celery_postgres.consumer.membership import Membership
from celery_postgres.database import watchdog
from celery_postgres.database.backoff import Backoff, uniform
from celery_postgres.database.consumer_store import ConsumerStore, EndedSubscription
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.notifications import Notifications
from celery_postgres.database.pool import Sessions
from celery_postgres.database.session import Session
from celery_postgres.database.wake import Wake
from celery_postgres.errors import SchemaError, loggable

if TYPE_CHECKING:
    from celery_postgres.consumer.prefetch import Inbox

logger = logging.getLogger(__name__)

#: A beat is also an idle worker's look at its queues: with Celery's heartbeat event, and gossip's copy of it, less than
#: two statements a second.
BEAT_S = 1.2
SWEEP_S = 10.0
#: While acks or buffered messages wait, the attendant looks this often.
BUSY_S = 0.01
#: How long a call waits for a consumer's id after the former one was lost.
REGISTERED_S = 10.0


class Attendant:
    """One per process and database; `consumer` is its row in `kombu_consumer`.

    Attributes:
        member: this process among the consumers.
        generation: how often the lease was lost.
        paused: ids of queues that an operator has paused.
        stopped: names of tasks that an operator has stopped.
    """

    def __init__(
        self,
        sessions: Sessions,
        listen: Sessions,
        max_failures: int,
        unresponsive_s: float = Watch.UNRESPONSIVE_S,
    ) -> None:
        """Connect and register.

        Raises:
            psycopg2.OperationalError, SchemaError: as connecting does.
        """
        self.sessions = sessions
        self.max_failures = max_failures
        self.member = Membership()
        self.ledger = Ledger()
        self.generation = 0
        self.paused: frozenset[int] = frozenset()
        self.stopped: frozenset[str] = frozenset()
        self.outstanding: set[tuple[int, int]] = set()
        #: Of those, what is settled by whoever stores its task's result.
        self.carried: set[tuple[int, int]] = set()
        self.pid = os.getpid()
        self._notifications = Notifications(listen, self._notify)
        self._inboxes: weakref.WeakSet[Inbox] = weakref.WeakSet()
        self._wake = Wake()
        self._resting = False
        self._stopping = False
        self._watch = Watch(unresponsive_s)
        self._next_beat = self._next_sweep = 0.0
        self._upkeep = Upkeep(max_failures)
        self._doubts = 0
        self._session: Session | None = None
        self._subscriptions: Counter[str] = Counter()
        self._queues: dict[str, int] = {}
        self._subscriptions_lock = threading.RLock()  # for signal handlers, as that of an inbox
        self._registered = threading.Event()
        self._later: deque[Callable[[Session], None]] = deque()
        watchdog.start()
        if listen is not sessions:
            listen.connect().close()  # a wrong address or certificate is an error here, not a line in a log
        self._connect()
        self._thread = threading.Thread(target=self._run, name="celery_postgres attendant", daemon=True)
        self._thread.start()

    # -- for the other threads

    @property
    def consumer(self) -> int:
        """The id under which this process claims; 0 while it has none."""
        return self.member.consumer

    def attend(self, inbox: Inbox) -> None:
        self._inboxes.add(inbox)

    def leave(self, inbox: Inbox) -> None:
        self._inboxes.discard(inbox)

    @property
    def idle(self) -> bool:
        """Whether nobody consumes and nothing is in anybody's hands."""
        return not self._inboxes and not self.outstanding

    @property
    def deaf(self) -> bool:
        """Whether notifications do not arrive."""
        return self._notifications.deaf

    def subscribe(self, queue: str, again: bool = False) -> int:
        """One more connection of this process consumes the queue. Returns its id; 0 if there is no such queue.

        Parameters:
            again: it does already, and the queue may be another one of that name by now.

        Raises:
            psycopg2.OperationalError: this process cannot register as a consumer.
        """
        while True:
            consumer = self.consumer
            try:
                with self._subscriptions_lock:
                    queue_id = ConsumerStore(self.sessions).subscribe(consumer, queue)
                    if queue_id:
                        self._subscriptions[queue] += not again
                        self._queues[queue] = queue_id
                    return queue_id
            except psycopg2.errors.ForeignKeyViolation:
                # Others took us for dead, as after a machine's sleep, and our heartbeat has not found out yet.
                self._replace(consumer)

    def _replace(self, consumer: int) -> None:
        """Wait until there is another consumer than this one, which has no row any more."""
        deadline = time.monotonic() + REGISTERED_S
        while self.consumer in (0, consumer):
            if time.monotonic() >= deadline:
                raise psycopg2.OperationalError("this process could not register as a consumer again")
            self._next_beat = 0.0
            self._wake.set()
            self._registered.wait(0.02)

    def unsubscribe(self, queue: str) -> EndedSubscription | None:
        """One less. With the last, (queue, whether it deletes itself)."""
        with self._subscriptions_lock:
            self._subscriptions[queue] -= 1
            if self._subscriptions[queue] > 0:
                return None
            del self._subscriptions[queue]
            queue_id = self._queues.pop(queue, 0)
            return ConsumerStore(self.sessions).unsubscribe(self.consumer, queue_id)

    def registered(self, timeout: float) -> bool:
        """Wait until this process has a consumer row (again)."""
        return self._registered.wait(timeout)

    def eventually(self, work: Callable[[Session], None]) -> None:
        """Do `work` in the attendant's session, as soon as there is one. Work that fails otherwise is dropped."""
        self._later.append(work)
        self.hurry()

    def hurry(self) -> None:
        """There is something to look after before the next beat."""
        if self._resting:
            self._wake.set()

    def ack(self, message: int, fence: int, mark: str | None = None) -> None:
        """Acknowledge a claim.

        Parameters:
            mark: of a task that is acknowledged before it runs: what its publisher has put into the message.
        """
        if (message, fence) in self.carried:
            return
        self.outstanding.discard((message, fence))
        if mark is not None:
            self.member.early.add(message, fence, mark)
        if self.ledger.add(message, fence):
            self.hurry()

    def carry(self, claim: tuple[int, int]) -> bool:
        """Leave it to the caller to delete this message, in the transaction that stores its result; whether it is ours
        to delete. `settled` ends that."""
        if claim not in self.outstanding:
            return False
        self.carried.add(claim)
        return True

    def settled(self, claims: list[tuple[int, int]]) -> None:
        """These were carried, and are done with."""
        self.outstanding.difference_update(claims)
        self.carried.difference_update(claims)

    def return_later(self, claim: tuple[int, int]) -> None:
        """Give a claim back as failed, as soon as the database can take it, and until then hear of no ack of it."""
        self.carried.add(claim)

        def returned(session: Session) -> None:
            self.release(session, [claim], failed=True)
            self.settled([claim])

        self.eventually(returned)

    def settle(self, session: Session | Sessions) -> None:
        """Deliver the acks that wait, now."""
        acks = self.ledger.take()
        if acks:
            try:
                MessageStore(session).settle(acks)
            except BaseException:
                self.ledger.put_back(acks)
                raise
            self.ledger.delivered(acks)

    def doubt(self) -> None:
        """An answer was lost: the database may say that we hold what nobody here knows of."""
        self._doubts = 3  # sweeps, so that the youngest claim grows old

    def release(
        self,
        session: Session | Sessions,
        claims: list[tuple[int, int]],
        *,
        failed: bool = False,
    ) -> None:
        """Give claims back. `failed`: Celery had them, and it counts."""
        try:
            MessageStore(session).release(claims, self.max_failures, failed=failed)
        except BaseException:
            self.doubt()  # they are in nobody's hands by now
            raise

    def stop(self) -> None:
        """Deliver what waits, give back what is held, and be gone. Returns when it is, or after 5 s."""
        self._stopping = True
        if self.pid == os.getpid():
            self._wake.set()
            self._thread.join(5)

    # -- the thread

    def _connect(self) -> None:
        session = self._session = self.sessions.connect()
        self.member.enter(session)
        self._registered.set()
        # Before anything is claimed: a task that kills its worker would do so before the first beat.
        self.stopped = ConsumerStore(session).blocked_tasks()
        self._notifications.listen(f"kombu_{self.consumer}")
        self._watch.forget()
        self._next_beat = 0.0

    def _disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _run(self) -> None:
        retry = Backoff()  # quick at first: a rescuer that finds our lock free waits only 5 s
        while not self._stopping:
            try:
                away = self._session is None
                if away:
                    self._connect()
                    self._notify()  # what was sent meanwhile was not heard
                self._turn()
                retry.succeeded()
                # Said after the first beat: a database that takes no writes takes us back, and nothing more.
                if away and self._session is not None:
                    logger.info("the broker is back")
            except Exception as error:  # whatever it is: without this thread a worker is dead to the others
                if self._stopping:
                    break
                pause = retry.failed()
                if isinstance(error, (psycopg2.Error, SchemaError, OSError)):
                    what = "used" if isinstance(error, SchemaError) else "reached"
                    # No argument: the application's log leaves out texts that are arguments, but for those of errors.
                    logger.warning(f"the broker cannot be {what} (%s); next try in %.2f s", loggable(error), pause)
                else:
                    logger.exception("the broker was not attended to; next try in %.2f s", pause)
                    self.doubt()
                self._disconnect()
                while retry.left and not self._stopping:
                    self._wake.wait(retry.left)  # `hurry` ends it too, and brings no database back
                    self._wake.clear()
        try:
            self._finish()
        except (psycopg2.Error, SchemaError) as error:
            logger.warning("what this process held is left to the others: %s", loggable(error))
        self._disconnect()
        self._notifications.stop()
        self._wake.close()

    def _turn(self) -> None:
        session = self._session
        assert session is not None  # noqa: S101
        self._beat_if_due(session)
        if self.member.lost:
            self._lose()
            return
        if time.monotonic() >= self._next_sweep:
            self._sweep(session)
            self._next_sweep = time.monotonic() + SWEEP_S * uniform(0.8, 1.2)
        if self.ledger.age() > self.ledger.FLUSH_AFTER_S:
            self.settle(session)
        while self._later:
            self._later[0](session)
            self._later.popleft()
        busy = len(self.ledger) > 0
        for inbox in list(self._inboxes):
            stale = inbox.take_stale()
            if stale:
                self.release(session, stale)
            busy = busy or inbox.holds_messages
        self._resting = not busy
        if busy or not len(self.ledger):
            pause = BUSY_S if len(self.ledger) else 0.2 if busy else self._next_beat - time.monotonic()
            readable = self._wake.wait(pause, session.fileno())
            self._resting = False
            self._wake.clear()
            if session.fileno() in readable:
                session.notifications()  # of none: it raises if the connection has ended

    def _notify(self) -> None:
        for inbox in list(self._inboxes):
            inbox.notify()

    def _beat_if_due(self, session: Session) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_S * uniform(0.9, 1.1)
            self._beat(session)

    def _beat(self, session: Session) -> None:
        """Raise the counter and look at those of the others."""
        peek = any(inbox.rests for inbox in list(self._inboxes))
        beat = self.member.beat(session, peek=peek)
        if beat is None:
            return
        if beat.doubtful:
            self.doubt()
            self._look_for_queues(session)
        self.paused, self.stopped = beat.paused, beat.stopped
        if self.paused or self.stopped:  # each time: a claim may have been under way when it began
            for inbox in list(self._inboxes):
                self.release(session, inbox.take_halted(self.paused, self.stopped))
        if beat.waits:
            self._notify()
        for consumer, count, certain in self._watch.observe(beat.others):
            if certain or ConsumerStore(session).has_lost_session(consumer):
                self._upkeep.rescue(session, consumer, count)

    def _look_for_queues(self, session: Session) -> None:
        """An id may be another queue's by now."""
        known = dict(self._queues)
        found = ConsumerStore(session).subscriptions(self.consumer)
        # What was subscribed to or given up meanwhile is right.
        gone = {name for name, one in known.items() if found.get(name) != one and self._queues.get(name) == one}
        for inbox in list(self._inboxes):
            inbox.outdate(gone)

    def _lose(self) -> None:
        """What this process had claimed belongs to others, or will soon."""
        logger.error(f"{self.member.lost}; it begins anew")  # no argument: as below
        self._registered.clear()
        self.member.leave()
        for inbox in list(self._inboxes):
            inbox.lose()
        self.generation += 1  # now each knows what it has lost
        self.outstanding.clear()
        self.carried.clear()
        self._subscriptions.clear()
        self._queues.clear()
        self._disconnect()

    def _sweep(self, session: Session) -> None:
        if self._doubts:
            self._doubts -= 1
            self._reconcile(session)
        self._upkeep.sweep(session, self._beat_if_due)

    def _reconcile(self, session: Session) -> None:
        """Give back what is claimed in our name and in nobody's hands."""
        claimed = MessageStore(session).old_claims(self.consumer)
        # Asked afterwards: what is in a hand now was so when it was claimed, more than 10 s ago.
        held = self.outstanding | self.ledger.known()
        for inbox in list(self._inboxes):
            held |= inbox.held()
        lost = [claim for claim in claimed if claim not in held]
        forgotten = self.member.forgotten
        ended = [claim for claim in lost if claim[0] in forgotten and forgotten[claim[0]][0] == claim[1]]
        if ended:
            MessageStore(session).settle(ended)
            lost = [claim for claim in lost if claim not in ended]
        if lost:
            logger.warning("%d messages whose delivery was lost with a connection go back", len(lost))
            self.release(session, lost)

    def _finish(self) -> None:
        if not self.consumer:
            return
        if self._session is None:
            self._session = self.sessions.connect()
        self.settle(self._session)
        while self._later:
            self._later.popleft()(self._session)
        if ConsumerStore(self._session).remove(self.consumer):
            MessageStore(self._session).release_all(self.consumer, self.max_failures, failed=False)
