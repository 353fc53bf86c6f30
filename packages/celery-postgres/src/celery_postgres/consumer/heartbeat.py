"""The thread that shows the other consumers that this process lives.

The main thread may be inside a task for hours (the solo pool). So one thread, on one connection of its own, raises the
counter, sends pending acks, releases buffered messages that no thread delivers, rescues the messages of dead consumers,
and does the maintenance.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from celery_postgres.consumer import worker_report
from celery_postgres.consumer.buffers import Buffers
from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.counting import Counting
from celery_postgres.consumer.departure import settle_everything
from celery_postgres.consumer.failure_detector import FailureDetector
from celery_postgres.consumer.lead import LEAD_S
from celery_postgres.consumer.maintenance import Maintenance
from celery_postgres.consumer.membership import Membership
from celery_postgres.consumer.process_subscriptions import ProcessSubscriptions
from celery_postgres.consumer.protocols import Buffer
from celery_postgres.consumer.uncounted import Uncounted
from celery_postgres.database import driver, watchdog
from celery_postgres.database.backoff import uniform
from celery_postgres.database.consumer_store import ConsumerStore, EndedSubscription
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.minute_store import Retention
from celery_postgres.database.notifications import Notifications
from celery_postgres.database.pool import Sessions
from celery_postgres.database.service import Service
from celery_postgres.database.session import Session
from celery_postgres.errors import SchemaError, loggable

logger = logging.getLogger(__name__)

#: A heartbeat also checks an idle worker's queues for messages. With Celery's heartbeat event, an idle worker sends
#: 1.3 statements a second, however many there are.
BEAT_S = 1.2
MAINTENANCE_S = 10.0
#: The pause between two turns while acks are pending.
ACKS_S = 0.01
#: The same while messages are buffered.
BUFFERED_S = 0.2
#: How long a call waits for a new consumer id after the former one was lost.
REGISTERED_S = 10.0


class Heartbeat(Service):
    """One for each process and database.

    Attributes:
        claims: what this process has claimed.
        member: this process among the consumers.
        generation: how often the lease was lost.
        paused: ids of the queues that an operator has paused, or whose limits this worker would not keep.
        blocked: names of the tasks that an operator has blocked.
    """

    def __init__(
        self, sessions: Sessions, listen: Sessions, max_failures: int, unresponsive_s: float, kept: Retention
    ) -> None:
        """Connect, register as a consumer, and start the thread.

        Args:
            listen: connections that notifications reach; the same as `sessions` unless those go through a pooler.
            max_failures: the number of failures after which a message is a dead letter.
            unresponsive_s: see `FailureDetector`.
            kept: for how long counts of tasks are kept.

        Raises:
            psycopg2.OperationalError: the database cannot be reached.
            SchemaError: the tables or the rights are missing.
        """
        super().__init__("heartbeat")
        self.sessions = sessions
        self.claims = Claims(sessions, max_failures, self.wake_up, lambda: self._buffers.claims_ended())
        self.counting = Counting(counts=kept.minutes_s > 0)
        self.claims.tally = self.counting.tally
        self.member = Membership(self.claims.early)
        self.generation = 0
        self.paused: frozenset[int] = frozenset()
        self.blocked: frozenset[str] = frozenset()
        self.pid = os.getpid()
        self._buffers = Buffers(self.claims)
        self._notifications = Notifications(listen, self._buffers.notify)
        self._subscriptions = ProcessSubscriptions(sessions)
        self._detector = FailureDetector(unresponsive_s)
        self._maintenance, self._uncounted = Maintenance(max_failures, kept), Uncounted()
        self._next_beat = self._next_maintenance = 0.0
        #: The thread waits for the next beat, so work before that has to wake it.
        self._resting = False
        self._registered = threading.Event()
        self._session: Session | None = None
        watchdog.start()
        self._enter()
        self.start()

    # -- for the other threads

    @property
    def consumer(self) -> int:
        """The id under which this process claims; 0 while it has none."""
        return self.member.consumer

    @property
    def is_idle(self) -> bool:
        """Whether no connection consumes and no delivered message is unsettled."""
        return not self._buffers and not self.claims.any_delivered

    @property
    def holds_messages(self) -> bool:
        """Whether messages are claimed that Celery has not seen yet."""
        return self._buffers.hold_messages

    @property
    def sleeper(self) -> int | None:
        """The id under which publishers may notify this process before its next claim: that will see all that is ready.
        None if it may leave something behind, or if the worker stops."""
        return self.consumer or None if self._buffers.see_all_next and not worker_report.is_ending() else None

    def slept(self) -> None:
        """`sleeper` has been noted asleep."""
        self._buffers.slept()

    @property
    def fair(self) -> frozenset[int]:
        """The ids of the queues that are fair."""
        return self._subscriptions.fair

    @property
    def gone(self) -> int:
        """How many other consumers have left."""
        return self._detector.gone

    @property
    def without_notifications(self) -> bool:
        """Whether notifications do not arrive, so that this process has to poll."""
        return not self._notifications.arrive

    def attach(self, buffer: Buffer) -> None:
        """Look after a buffer, and wake it when messages may have arrived."""
        self._buffers.add(buffer)

    def detach(self, buffer: Buffer) -> None:
        self._buffers.discard(buffer)

    def subscribe(self, queue: str, *, again: bool = False) -> int:
        """One more connection of this process consumes the queue. Returns its id; 0 if there is no such queue.

        Args:
            again: the connection does already, and the queue may be another one of that name by now.

        Raises:
            psycopg2.OperationalError: this process cannot register as a consumer.
        """
        while True:
            consumer = self.consumer
            queue_id = self._subscriptions.add(consumer, queue, again=again)
            if queue_id is not None:
                return queue_id
            # Others took this process for dead, as after a machine's sleep, and its heartbeat has not found out yet.
            self._await_another(consumer)

    def _await_another(self, consumer: int) -> None:
        """Wait until this process has another id than this one, whose row is gone."""
        deadline = time.monotonic() + REGISTERED_S
        while self.consumer in (0, consumer):
            if time.monotonic() >= deadline:
                raise driver.OperationalError("this process could not register as a consumer again")
            self._next_beat = 0.0
            self.wake.set()
            self._registered.wait(0.02)

    def unsubscribe(self, queue: str) -> EndedSubscription | None:
        """One connection less consumes the queue; returns the subscription if this was the last."""
        return self._subscriptions.remove(self.consumer, queue)

    def registered(self, timeout: float) -> bool:
        """Wait until this process has a consumer row (again)."""
        return self._registered.wait(timeout)

    def wake_up(self) -> None:
        """There is work before the next beat."""
        if self._resting:
            self.wake.set()

    def stop(self) -> None:
        """Send pending acks, release all claims and remove the consumer. Returns when that is done, or after 5 s."""
        self.stopping = True
        if self.pid == os.getpid():
            super().stop()

    # -- the thread

    @property
    def connected(self) -> bool:
        return self._session is not None

    def connect(self) -> None:
        self._enter()
        self._buffers.notify()  # what was sent in between was not heard

    def _enter(self) -> None:
        session = self._session = self.sessions.connect()
        self.member.enter(session)
        self._registered.set()
        # Before anything is claimed: a task that kills its worker would do so before the first beat.
        self.blocked = ConsumerStore(session).blocked_tasks()
        self._notifications.listen(f"kombu_{self.consumer}")
        self._detector.forget()
        self._next_beat = 0.0

    def disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def log_failure(self, error: Exception, pause: float, *, first: bool) -> None:
        if isinstance(error, SchemaError):
            logger.warning("Cannot use the broker (%s); next try in %.2f s", loggable(error), pause)
        elif isinstance(error, driver.Error | OSError):
            logger.warning("Cannot reach the broker (%s); next try in %.2f s", loggable(error), pause)
        else:
            logger.error("The heartbeat has failed; next try in %.2f s", pause, exc_info=error)
            self.claims.reconcile_soon()

    def turn(self) -> None:
        session = self._session
        assert session is not None  # noqa: S101
        self._beat_if_due(session)
        if self.member.lost:
            self._lose()
            return
        if self.retry.failing:
            # After the first beat: a database that accepts no writes accepts this connection, and nothing more.
            logger.info("The broker is reachable again")
            self.retry.succeeded()
        messages = MessageStore(session)
        if time.monotonic() >= self._next_maintenance:
            self.claims.reconcile_if_needed(messages, self.consumer, self._buffers.claims)
            self._maintenance.run(session, self._beat_if_due)
            self._next_maintenance = time.monotonic() + MAINTENANCE_S * uniform(0.8, 1.2)
        if self.claims.pending.age() > self.claims.pending.FLUSH_AFTER_S:
            self.claims.settle_pending(messages)
        self.claims.do_postponed(messages)
        self._buffers.wake_others(messages)
        self.counting.write_if_due(session, self.consumer, self._subscriptions.queue_ids)
        pending = len(self.claims.pending) > 0
        self._wait(session, busy=self._buffers.release_stale(messages) or pending)

    def _wait(self, session: Session, *, busy: bool) -> None:
        """Wait for the next beat, or for what comes before it."""
        self._resting = not busy
        pending = len(self.claims.pending)
        if pending and not busy:
            return  # an ack came after the check, and has woken nobody
        pause = ACKS_S if pending else BUFFERED_S if busy else self._next_beat - time.monotonic()
        if self._buffers.any_leads:
            pause = min(pause, LEAD_S)
        readable = self.wake.wait(pause, session.fileno())
        self._resting = False
        self.wake.clear()
        if session.fileno() in readable:
            session.notifications()  # there are none; this raises if the connection has ended

    def _beat_if_due(self, session: Session) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_S * uniform(0.9, 1.1)
            self._beat(session)

    def _beat(self, session: Session) -> None:
        """Raise the counter and read those of the others."""
        pulse = self.member.beat(session, worker_report.report(), peek=self._buffers.any_resting)
        if pulse is None:
            return
        if pulse.draining and worker_report.drain():
            self._buffers.notify()  # the main thread sleeps until then
        if pulse.uncertain:
            self.claims.reconcile_soon()
            self._buffers.outdate(self._subscriptions.outdated(ConsumerStore(session), self.consumer))
        self.paused = pulse.paused | self._uncounted.among(session, pulse.fair)
        self.blocked, self._subscriptions.fair = pulse.blocked, pulse.fair
        if self.paused or self.blocked:  # each time: a claim may have been under way when it began
            self._buffers.release_halted(MessageStore(session), self.paused, self.blocked)
        if pulse.messages_wait:
            self._buffers.notify()
        for suspicion in self._detector.observe(pulse.others):
            if suspicion.certain or ConsumerStore(session).has_lost_session(suspicion.consumer):
                self._maintenance.rescue(session, suspicion.consumer, suspicion.counter)

    def _lose(self) -> None:
        """What this process had claimed belongs to others, or soon will."""
        logger.error("%s; it registers as a new consumer", self.member.lost)
        self._registered.clear()
        self.member.leave()
        self._buffers.lose()
        self.generation += 1  # from now on each buffer knows what it has lost
        self.claims.lose()
        self._subscriptions.clear()
        self.disconnect()

    def finish(self) -> None:
        try:
            if self.consumer:
                if self._session is None:
                    self._session = self.sessions.connect()
                queues = self._subscriptions.queue_ids()
                settle_everything(self._session, self.consumer, self.claims, self.counting, queues)
        except (driver.Error, SchemaError) as error:
            logger.warning("Leaving the claims of this process to the other consumers: %s", loggable(error))
        self.disconnect()
        self._notifications.stop()
        self.wake.close()
