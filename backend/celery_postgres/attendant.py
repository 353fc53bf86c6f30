"""The thread that keeps a consuming process alive in the eyes of the others.

The main thread may be inside a task for hours (the solo pool). So one thread, on one connection of its own, raises
the counter, listens for notifications, delivers acks that wait, gives back what nobody works on, rescues what the
dead left, and tidies up.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg2

from celery_postgres import session as session_module
from celery_postgres import silence
from celery_postgres.backoff import Backoff
from celery_postgres.errors import SchemaError, loggable
from celery_postgres.hearing import hears
from celery_postgres.jitter import uniform
from celery_postgres.ledger import Ledger
from celery_postgres.liveness import Watch
from celery_postgres.names import printable
from celery_postgres.upkeep import Upkeep, release
from celery_postgres.wake import Wake

if TYPE_CHECKING:
    from celery_postgres.inbox import Inbox

logger = logging.getLogger(__name__)

#: A beat is also an idle worker's look at its queues: with Celery's heartbeat event, and gossip's copy of it, less than
#: two statements a second.
BEAT_S = 1.2
SWEEP_S = 10.0
#: While acks or buffered messages wait, the attendant looks this often.
BUSY_S = 0.01


class Attendant:
    """One per process and database; `consumer` is its row in `kombu_consumer`.

    Attributes:
        consumer: the id under which this process claims.
        generation: how often the lease was lost.
        paused: ids of queues that an operator has paused.
        stopped: names of tasks that an operator has stopped.
        deaf: whether notifications do not arrive, because of a transaction pooler.
    """

    def __init__(self, sessions: session_module.Sessions, listen: session_module.Sessions, max_failures: int) -> None:
        """Connect and register.

        Raises:
            psycopg2.OperationalError, SchemaError: as connecting does.
        """
        self.sessions = sessions
        self.max_failures = max_failures
        self.ledger = Ledger()
        self.generation = 0
        self.paused: frozenset[int] = frozenset()
        self.stopped: frozenset[str] = frozenset()
        self.deaf = False
        self.outstanding: set[tuple[int, int]] = set()
        #: Of those, what is settled by whoever stores its task's result.
        self.carried: set[tuple[int, int]] = set()
        self.pid = os.getpid()
        self._listen = listen
        self._inboxes: weakref.WeakSet[Inbox] = weakref.WeakSet()
        self._wake = Wake()
        self._resting = False
        self._stopping = False
        self._watch = Watch()
        self._locked = False
        self._next_beat = self._next_sweep = 0.0
        self._upkeep = Upkeep(max_failures)
        self._doubts = 0
        self._session: session_module.Session | None = None
        self._listener: session_module.Session | None = None
        self._subscriptions: Counter[int] = Counter()
        self._subscriptions_lock = threading.RLock()  # for signal handlers, as that of an inbox
        self._registered = threading.Event()
        self._later: deque[Callable[[session_module.Session], None]] = deque()
        self.consumer = 0
        silence.start()
        self._connect()
        self._thread = threading.Thread(target=self._run, name="celery_postgres attendant", daemon=True)
        self._thread.start()

    # -- for the other threads

    def attend(self, inbox: Inbox) -> None:
        self._inboxes.add(inbox)

    def leave(self, inbox: Inbox) -> None:
        self._inboxes.discard(inbox)

    @property
    def idle(self) -> bool:
        """Whether nobody consumes and nothing is in anybody's hands."""
        return not self._inboxes and not self.outstanding

    def subscribe(self, queue_id: int) -> None:
        """One more connection of this process consumes the queue."""
        with self._subscriptions_lock:
            self._subscriptions[queue_id] += 1
            self.sessions.run("subscribe", again=True, consumer=self.consumer, queue_id=queue_id)

    def unsubscribe(self, queue_id: int) -> list[session_module.Row]:
        """One less. With the last, (queue, whether it deletes itself)."""
        with self._subscriptions_lock:
            self._subscriptions[queue_id] -= 1
            if self._subscriptions[queue_id] > 0:
                return []
            del self._subscriptions[queue_id]
            return self.sessions.run("unsubscribe", again=True, consumer=self.consumer, queue_id=queue_id)

    def registered(self, timeout: float) -> bool:
        """Wait until this process has a consumer row (again)."""
        return self._registered.wait(timeout)

    def eventually(self, work: Callable[[session_module.Session], None]) -> None:
        """Do `work` in the attendant's session, as soon as there is one. Work that fails otherwise is dropped."""
        self._later.append(work)
        self.hurry()

    def hurry(self) -> None:
        """There is something to look after before the next beat."""
        if self._resting:
            self._wake.set()

    def ack(self, message: int, fence: int) -> None:
        if (message, fence) in self.carried:
            return
        self.outstanding.discard((message, fence))
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

        def returned(session: session_module.Session) -> None:
            self.release(session, [claim], failed=True)
            self.settled([claim])

        self.eventually(returned)

    def settle(self, session: session_module.Session | session_module.Sessions) -> None:
        """Deliver the acks that wait, now."""
        acks = self.ledger.take()
        if acks:
            try:
                session.run("settle", acked_ids=[i for i, _ in acks], acked_fences=[f for _, f in acks])
            except BaseException:
                self.ledger.put_back(acks)
                raise
            self.ledger.delivered(acks)

    def doubt(self) -> None:
        """An answer was lost: the database may say that we hold what nobody here knows of."""
        self._doubts = 3  # sweeps, so that the youngest claim grows old

    def release(
        self,
        session: session_module.Session | session_module.Sessions,
        claims: list[tuple[int, int]],
        *,
        failed: bool = False,
    ) -> None:
        """Give claims back. `failed`: Celery had them, and it counts."""
        try:
            release(session, claims, self.max_failures, failed=failed)
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
        if not self.consumer:
            hostname = printable(socket.gethostname())
            ((self.consumer,),) = session.run("register_consumer", hostname=hostname, pid=os.getpid())
            self._registered.set()
        # Before anything is claimed: a task that kills its worker would do so before the first beat.
        self.stopped = frozenset(name for name, _ in session.run("stopped_tasks"))
        listener = session
        if self._listen is not self.sessions:
            listener = self._listener = self._listen.connect()
        self.deaf = not hears(listener, self._listen.dsn, self._listen.connect)
        if self.deaf:
            logger.warning(
                "a transaction pooler stands before the database, so notifications do not arrive: this process "
                "polls. Name a direct address in broker_transport_options['listen_dsn'] to be woken up"
            )
        else:
            listener.listen(f"kombu_{self.consumer}")
        self._locked = False
        self._lock()
        self._watch.forget()
        self._next_beat = 0.0

    def _lock(self) -> None:
        if not self._locked and self._session is not None and not self._session.pooled:
            ((self._locked,),) = self._session.run("lock_consumer", consumer=self.consumer)

    def _disconnect(self) -> None:
        for one in (self._session, self._listener):
            if one is not None:
                one.close()
        self._session = self._listener = None

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
        self._wake.close()

    def _turn(self) -> None:
        session = self._session
        assert session is not None  # noqa: S101
        if not self._beat_if_due(session):
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
            listener = self._listener or session
            # A notification that came along with a statement's answer makes nothing readable: it waited for the next
            # beat, 1.2 s, in one of six bursts of a hundred messages.
            if not self._heard(listener):
                readable = self._wake.wait(pause, listener.fileno())
                self._resting = False
                self._wake.clear()
                if listener.fileno() in readable:
                    self._heard(listener)
            self._resting = False

    def _heard(self, listener: session_module.Session) -> bool:
        """Pass on what the database has notified us of; whether there was something."""
        there = bool(listener.notifications())
        if there:
            self._notify()
        return there

    def _notify(self) -> None:
        for inbox in list(self._inboxes):
            inbox.notify()

    def _beat_if_due(self, session: session_module.Session) -> bool:
        """Whether we are alive, in the eyes of the others."""
        now = time.monotonic()
        if now < self._next_beat:
            return True
        self._next_beat = now + BEAT_S * uniform(0.9, 1.1)
        return self._beat(session)

    def _beat(self, session: session_module.Session) -> bool:
        self._lock()
        peek = any(inbox.rests for inbox in list(self._inboxes))
        rows = session.run("beat", consumer=self.consumer, locked=self._locked, peek=peek)
        mine = [row for row in rows if row[0] == self.consumer]
        if not mine:
            return False
        self.paused, self.stopped = frozenset(mine[0][3] or ()), frozenset(mine[0][5] or ())
        if self.paused or self.stopped:  # each time: a claim may have been under way when it began
            for inbox in list(self._inboxes):
                self.release(session, inbox.take_halted(self.paused, self.stopped))
        if mine[0][4]:
            self._notify()
        others = [(row[0], row[1], row[2]) for row in rows if row[0] != self.consumer]
        for consumer, beat, certain in self._watch.observe(others):
            if certain or (not session.pooled and session.run("session_gone", consumer=consumer)[0][0]):
                self._upkeep.rescue(session, consumer, beat)
        return True

    def _lose(self) -> None:
        """The others took us for dead: everything we had claimed is theirs by now."""
        logger.error("this process was silent for so long that others took its messages over; it begins anew")
        self._registered.clear()
        self.consumer = 0
        self.generation += 1
        self.outstanding.clear()
        self.carried.clear()
        self._subscriptions.clear()
        for inbox in list(self._inboxes):
            inbox.lose()
        self._disconnect()

    def _sweep(self, session: session_module.Session) -> None:
        if self._doubts:
            self._doubts -= 1
            self._reconcile(session)
        self._upkeep.sweep(session, self._beat_if_due)

    def _reconcile(self, session: session_module.Session) -> None:
        """Give back what is claimed in our name and in nobody's hands."""
        claimed = session.run("old_claims", consumer=self.consumer)
        # Asked afterwards: what is in a hand now was so when it was claimed, more than 10 s ago.
        held = self.outstanding | self.ledger.known()
        for inbox in list(self._inboxes):
            held |= inbox.held()
        lost = [(row[0], row[1]) for row in claimed if (row[0], row[1]) not in held]
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
        if self._session.run("remove_consumer", consumer=self.consumer, beat=None):
            self._upkeep.release_all(self._session, self.consumer, failed=False)
