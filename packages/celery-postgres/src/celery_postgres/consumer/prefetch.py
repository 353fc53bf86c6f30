"""The prefetch buffer: messages that a Kombu connection has claimed and not delivered yet."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from celery_postgres.consumer import message_checks, poison
from celery_postgres.consumer.claim_policy import ClaimPolicy
from celery_postgres.consumer.claiming import Wanted, planned, receive, send
from celery_postgres.consumer.delivery import deliver, get
from celery_postgres.consumer.fairness import Fairness
from celery_postgres.consumer.heartbeat import Heartbeat
from celery_postgres.consumer.outlet import Delivery, Outlet, Subscription, Unacked
from celery_postgres.consumer.subscriptions import Subscriptions
from celery_postgres.database import driver
from celery_postgres.database.consumer_store import EndedSubscription
from celery_postgres.database.fair_store import FairStore
from celery_postgres.database.message_store import Claim, MessageStore
from celery_postgres.database.wake import Wake
from celery_postgres.errors import LeaseLost, primary

logger = logging.getLogger(__name__)


class PrefetchBuffer:
    """One per Kombu connection that consumes; used by the connection's thread, except where said.

    What lies in the buffer is claimed, but Celery has not seen it, and the prefetch limit does not count it.

    Attributes:
        wake: readable when there may be something to deliver.
        subscriptions: the queues that the connection consumes.
    """

    #: The heartbeat releases what lies in the buffer for so long without progress, whatever the reason.
    STALE_S = 1.0
    #: From then on the heartbeat checks for messages on behalf of this buffer.
    RESTING_S = 0.8

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        self.wake = Wake()
        self.subscriptions = Subscriptions(heartbeat)
        self.policy = ClaimPolicy()
        self.fairness = Fairness(FairStore(heartbeat.sessions), heartbeat.claims.holds)
        self._messages = MessageStore(heartbeat.sessions)
        # Reentrant: QUIT cancels the consumers in its signal handler, wherever the main thread is.
        self._lock = threading.RLock()
        self._buffer: deque[Delivery] = deque()
        self._progress = 0.0
        #: Nothing may be delivered before an ack returns credit.
        self._awaits_credit = False
        self._generation = heartbeat.generation
        #: The lease was lost, and with it messages that this connection had claimed.
        self._robbed = False
        #: A queue is gone, or has another id.
        self._outdated = False
        self._channels: weakref.WeakSet[Unacked] = weakref.WeakSet()
        heartbeat.attach(self)

    # -- for other threads

    @property
    def holds_messages(self) -> bool:
        return bool(self._buffer)

    @property
    def is_resting(self) -> bool:
        return not self._buffer and self.policy.idle_s() > self.RESTING_S

    @property
    def sees_all_next(self) -> bool:
        return self.policy.sees_all_next

    @property
    def leads(self) -> bool:
        return self.policy.lead.is_watched

    def overdue(self) -> list[int]:
        return [one.queue_id for one in list(self.subscriptions)] if self.policy.lead.overdue() else []

    def slept(self) -> None:
        self.policy.slept()

    def notify(self) -> None:
        self.fairness.look()
        self.policy.notify()
        self.wake.set()

    def claims(self) -> set[Claim]:
        with self._lock:
            return {one.claim for one in self._buffer}

    def take_stale(self) -> list[Claim]:
        with self._lock:
            if not self._buffer or time.monotonic() - self._progress < self.STALE_S:
                return []
            stale = self._take(lambda _: True)
        self.policy.batch_size.stalled()
        self.policy.expect_messages()
        self.wake.set()
        return stale

    def take_halted(self, queues: frozenset[int], tasks: frozenset[str]) -> list[Claim]:
        taken = self._take(lambda one: one.subscription.queue_id in queues or (one.task in tasks and not one.revoked))
        if taken:
            self.policy.expect_messages()
            self.wake.set()
        return taken

    def lose(self) -> None:
        with self._lock:
            claimed = any(not one.subscription.auto_ack for one in self._buffer)
            self._robbed = self._robbed or claimed or any(unacked.holds_messages for unacked in self._channels)
            self._buffer = deque(one for one in self._buffer if one.subscription.auto_ack)
        self.wake.set()

    def outdate(self, queues: set[str]) -> None:
        if self.subscriptions.include_any_of(queues):
            self._outdated = True
            self.wake.set()

    def credit_returned(self) -> None:
        """A message was acked: another one may be delivered. Any thread may call it."""
        self.policy.batch_size.acked()
        if self._awaits_credit:
            self._awaits_credit = False
            self.wake.set()
        self.claims_ended()

    def claims_ended(self) -> None:
        if self.fairness.any_closed:
            self.wake.set()

    # -- subscriptions

    def watch(self, unacked: Unacked) -> None:
        """Know of a channel, for what it has delivered."""
        with self._lock:
            self._channels.add(unacked)

    def subscribe(self, subscription: Subscription) -> bool:
        """Consume a queue; False if there is none of that name."""
        if not self.subscriptions.add(subscription):
            return False
        if message_checks.kind_for(subscription) == message_checks.TASK:
            poison.note_worker()
        self.policy.add_queue(subscription.queue_id)
        self.wake.set()
        return True

    def unsubscribe(self, queue: str) -> EndedSubscription | None:
        """End a subscription and release what is buffered of it."""
        self.release(lambda one: one.subscription.queue == queue)
        subscription, relied_on = self.subscriptions.get(queue), self.policy.lead.is_relied_on
        ended = self.subscriptions.remove(queue)
        if ended is not None and subscription is not None and relied_on:
            self._messages.wake([subscription.queue_id])
        return ended

    def release_queue(self, queue: str) -> None:
        """Release what is buffered of a queue."""
        self.release(lambda one: one.subscription.queue == queue)

    def release(self, wanted: Callable[[Delivery], bool] = lambda _: True) -> None:
        """Release what is buffered."""
        claims = self._take(wanted, all_of_them=True)
        if claims:
            self.heartbeat.claims.release(claims)

    def _take(self, wanted: Callable[[Delivery], bool], *, all_of_them: bool = False) -> list[Claim]:
        """Remove messages from the buffer and return their claims.

        Args:
            all_of_them: also those that were deleted as they were claimed, which are lost then.
        """
        with self._lock:
            taken = [one for one in self._buffer if (all_of_them or not one.subscription.auto_ack) and wanted(one)]
            for one in taken:
                self._buffer.remove(one)
        return [one.claim for one in taken if not one.subscription.auto_ack]

    def close(self) -> None:
        """Release everything, end the subscriptions, and be forgotten by the heartbeat."""
        self.heartbeat.detach(self)
        try:
            self.release()
            for subscription in self.subscriptions:
                self.unsubscribe(subscription.queue)
        except driver.Error as error:
            logger.warning("Leaving the buffered messages to the other consumers: %s", primary(error))
        self.wake.close()

    # -- deliveries

    def deliver_next(self, force: bool = False) -> bool:
        """Deliver one message if there is one; whether one was delivered.

        Args:
            force: claim even if it is not yet time.

        Raises:
            LeaseLost: others took this process for dead, and took over what it had claimed through this connection.
            psycopg2.OperationalError: the queues that it consumes are gone.
        """
        if self._generation != self.heartbeat.generation:
            self._begin_anew(self.heartbeat.generation)
        if self._outdated:
            self._outdated = False
            raise driver.OperationalError("the database no longer knows the queues that are consumed here")
        if self._deliver_buffered():
            return True
        claimed = self._claim(force)
        if claimed > 1 or self.heartbeat.claims.pending:
            self.heartbeat.wake_up()  # before a task that may take hours
        if claimed and self._deliver_buffered():
            return True
        if claimed:
            self.heartbeat.wake_up()
        return False

    def _begin_anew(self, generation: int) -> None:
        """Others took this process for dead. A connection that had claimed nothing need not know."""
        if self._robbed:
            self._generation, self._robbed = generation, False
            raise LeaseLost("this worker was silent for so long that its messages were given to others")
        self._outdated = not self.subscriptions.renew() or self._outdated
        self._generation = generation
        self.policy.replace_queues([one.queue_id for one in self.subscriptions])

    def pause(self) -> float | None:
        """Seconds until `deliver_next` has something to do by itself; None if it needs to be woken."""
        if not self.subscriptions:
            return None
        if self._buffer:
            return None if self._awaits_credit else 0.0
        if self.policy.notified and not self.policy.retry.failing:
            return self.policy.events_left_s
        queues, _ = self._with_credit()
        auto_ack = self.subscriptions.auto_ack()
        if not queues and not auto_ack:
            return None  # an ack wakes us, and the heartbeat when a queue is no longer paused
        fair = self._fair(queues + auto_ack)
        if fair and (self.fairness.ready(fair) or self.fairness.looks_now) and not self.policy.retry.failing:
            return 0.0
        pause = self.policy.pause(polls=self._polls(queues), without_notifications=self.heartbeat.without_notifications)
        opens_in = self.fairness.opens_in(fair)
        return pause if opens_in is None else min(pause, opens_in)

    def _fair(self, queues: list[Subscription]) -> list[int]:
        """The ids of those that are fair."""
        fair = self.heartbeat.fair
        return [one.queue_id for one in queues if one.queue_id in fair] if fair else []

    def _deliver_buffered(self) -> bool:
        with self._lock:
            self._awaits_credit = bool(self._buffer)  # set first, as in `_with_credit`
            try:
                for one in self._buffer:
                    if one.subscription.auto_ack or one.subscription.outlet.qos.can_consume():
                        self._buffer.remove(one)
                        break
                else:
                    return False
            except (ValueError, RuntimeError):
                return False  # a signal handler has released it
            self._progress = time.monotonic()
            self._awaits_credit = False
            if not one.subscription.auto_ack:
                self.heartbeat.claims.deliver(one.claim)
        return deliver(one, self.heartbeat.claims, self._messages)

    def _with_credit(self) -> tuple[list[Subscription], int]:
        # Set first: from here on an ack that returns credit wakes us, from whichever thread.
        self._awaits_credit = True
        queues, credit = self.subscriptions.with_credit()
        self._awaits_credit = not queues
        return queues, credit

    def _polls(self, queues: list[Subscription]) -> bool:
        """Whether to poll; otherwise an ack is what to wait for, which returns credit."""
        return bool(queues) or self.subscriptions.all_auto_ack

    def get(self, queue: str, queue_id: int, outlet: Outlet, *, auto_ack: bool) -> Any:
        """Claim and deliver one message outside of a subscription; None if the queue has none that is available."""
        subscription = Subscription(queue, outlet, auto_ack=False, queue_id=queue_id)
        heartbeat = self.heartbeat
        return get(subscription, heartbeat.consumer, heartbeat.claims, self._messages, self.fairness, auto_ack=auto_ack)

    # -- claims

    def _claim(self, force: bool) -> int:
        """Claim messages into the buffer, if it is time; returns how many."""
        heartbeat = self.heartbeat
        consumer = heartbeat.consumer
        if not consumer or self._buffer or self.policy.retry.left:
            return 0  # without a consumer id the lease was just lost; `deliver_next` reports that
        if heartbeat.without_notifications:
            self.policy.poll_without_notifications()
        queues, credit = self._with_credit()
        auto_ack = self.subscriptions.auto_ack()
        if not (queues or auto_ack):
            self.policy.no_credit()
            return 0
        wanted = Wanted(
            queues,
            credit,
            auto_ack,
            fair=self._fair(queues + auto_ack),
            polls=self._polls(queues),
            only_events=not queues and self.subscriptions.only_events,
        )
        self.fairness.others_left(heartbeat.gone)
        watched = self.policy.lead.is_watched
        plan = planned(self.policy, self.fairness, wanted, force=force)
        if plan is None:
            return 0
        result = send(consumer, heartbeat.claims, self.policy, self.fairness, self._messages, plan)
        if result is None:
            return 0
        if not watched and self.policy.lead.is_watched:
            heartbeat.wake_up()
        deliveries = receive(heartbeat.claims, self._messages, plan, result, heartbeat.blocked)
        if deliveries:
            if not heartbeat.claims.any_delivered:
                self.policy.batch_size.delivered()
            with self._lock:
                self._progress = time.monotonic()
                self._buffer.extend(deliveries)
                self._awaits_credit = False
        return len(deliveries)
