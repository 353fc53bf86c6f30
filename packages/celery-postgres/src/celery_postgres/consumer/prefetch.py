"""What a Kombu connection consumes: its queues, its buffer, and when to ask for more."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg2

from celery_postgres import observer
from celery_postgres.consumer.batch_size import Ladder, Pace
from celery_postgres.consumer.delivery import Delivery, Subscription, deliver, usable, without_forgotten
from celery_postgres.consumer.scan_position import Cursor
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.consumer_store import EndedSubscription
from celery_postgres.database.message_store import ClaimResult, MessageStore
from celery_postgres.database.wake import Wake
from celery_postgres.errors import LeaseLost, SchemaError, loggable, primary

if TYPE_CHECKING:
    from celery_postgres.broker.channel import Channel
    from celery_postgres.broker.qos import QoS
    from celery_postgres.consumer.heartbeat import Attendant

logger = logging.getLogger(__name__)


class Inbox:
    """One per Kombu connection that consumes; used by its thread, except where said.

    The buffer is our own: what lies in it is claimed, but Celery has not seen it, and prefetch does not count it.
    """

    #: What lies in the buffer for so long without progress goes back, whatever the reason.
    STALE_S = 1.0
    RESTING_S = 0.8
    FULL_SHARE = 20

    def __init__(self, attendant: Attendant) -> None:
        self.attendant = attendant
        self.wake = Wake()
        self.subscriptions: dict[str, Subscription] = {}
        self.pace = Pace()
        self._ladder = Ladder()
        self._cursors: dict[int, Cursor] = {}
        # Reentrant: QUIT cancels the consumers in its signal handler, wherever the main thread is.
        self._lock = threading.RLock()
        self._buffer: deque[Delivery] = deque()
        self._progress = self._last_claim = self._last_full = self._full_cost = 0.0
        self._hungry = True
        self._notified = False
        self._full = True
        self._stalled = False
        self._generation = attendant.generation
        self._robbed = self._outdated = False
        self._channels: weakref.WeakSet[QoS] = weakref.WeakSet()
        self._rotation = 0
        self._retry = Backoff()
        attendant.attend(self)

    # -- for other threads

    @property
    def holds_messages(self) -> bool:
        return bool(self._buffer)

    @property
    def rests(self) -> bool:
        """Whether the attendant should look for it."""
        return not self._buffer and time.monotonic() - self._last_claim > self.RESTING_S

    def notify(self) -> None:
        """The database says that there is something."""
        self._notified = True
        self.wake.set()

    def take_stale(self) -> list[tuple[int, int]]:
        """The claims of a buffer that nobody works on, which are the caller's now."""
        with self._lock:
            if not self._buffer or time.monotonic() - self._progress < self.STALE_S:
                return []
            stale = [(one.message, one.fence) for one in self._buffer if not one.subscription.no_ack]
            self._buffer = deque(one for one in self._buffer if one.subscription.no_ack)
        self.pace.stalled()
        self._hungry = True
        self.wake.set()
        return stale

    def take_halted(self, queues: frozenset[int], tasks: frozenset[str]) -> list[tuple[int, int]]:
        """The claims in the buffer that are of paused queues or stopped tasks; they are the caller's now."""
        taken = self._take(lambda one: one.subscription.queue_id in queues or (one.task in tasks and not one.revoked))
        if taken:
            self._hungry = True
            self.wake.set()
        return taken

    def watch(self, qos: QoS) -> None:
        """Know of a channel, for what it has delivered."""
        with self._lock:
            self._channels.add(qos)

    def lose(self) -> None:
        """Everything that was claimed belongs to others now."""
        with self._lock:
            claimed = any(not one.subscription.no_ack for one in self._buffer)
            self._robbed = self._robbed or claimed or any(qos.holds_messages for qos in self._channels)
            self._buffer = deque(one for one in self._buffer if one.subscription.no_ack)
        self.wake.set()

    def outdate(self, queues: set[str]) -> None:
        """These queues are gone, or have other ids."""
        if queues & set(self.subscriptions):
            self._outdated = True
            self.wake.set()

    def held(self) -> set[tuple[int, int]]:
        """The claims in the buffer."""
        with self._lock:
            return {(one.message, one.fence) for one in self._buffer}

    # -- subscriptions

    def subscribe(self, subscription: Subscription) -> bool:
        """Consume a queue; False if there is none of that name."""
        known = subscription.queue in self.subscriptions
        subscription.queue_id = self.attendant.subscribe(subscription.queue, again=known)
        if not subscription.queue_id:
            return False
        self.subscriptions[subscription.queue] = subscription
        self._cursors.setdefault(subscription.queue_id, Cursor())
        self._ladder.restart()
        self._hungry = self._full = True
        self.wake.set()
        return True

    def unsubscribe(self, queue: str) -> EndedSubscription | None:
        """End a subscription and give back what is buffered of it."""
        subscription = self.subscriptions.pop(queue, None)
        self.give_back(queue)
        if subscription is None:
            return None
        return self.attendant.unsubscribe(queue)

    def give_back(self, queue: str | None = None) -> None:
        """Give back what is buffered, of one queue or of all."""
        with self._lock:
            back = [one for one in self._buffer if queue in (None, one.subscription.queue)]
            for one in back:
                self._buffer.remove(one)
        claims = [(one.message, one.fence) for one in back if not one.subscription.no_ack]
        if claims:
            self.attendant.release(self.attendant.sessions, claims)

    def discard(self, task_ids: set[str]) -> None:
        """Give back what is buffered of these tasks: something about them has changed."""
        claims = self._take(lambda one: one.task_id in task_ids)
        if claims:
            self.attendant.release(self.attendant.sessions, claims)

    def _take(self, wanted: Callable[[Delivery], bool]) -> list[tuple[int, int]]:
        """Out of the buffer, but for what was deleted when it was claimed."""
        with self._lock:
            back = [one for one in self._buffer if not one.subscription.no_ack and wanted(one)]
            for one in back:
                self._buffer.remove(one)
        return [(one.message, one.fence) for one in back]

    def close(self) -> None:
        """Give everything back and be forgotten. The subscriptions go as well."""
        self.attendant.leave(self)
        try:
            self.give_back()
            for queue in list(self.subscriptions):
                self.unsubscribe(queue)
        except psycopg2.Error as error:
            logger.warning("what was buffered is left to the others: %s", primary(error))
        self.wake.close()

    # -- work

    def credit_returned(self) -> None:
        """A message was acked: another one may be delivered."""
        self.pace.acked()
        if self._stalled:
            self._stalled = False
            self.wake.set()

    def pump(self, force: bool = False) -> bool:
        """Deliver one message if there is one; whether one was. `force`: ask the database even if it is not yet time.

        Raises:
            LeaseLost: this process was taken for dead, and what it had been given through this connection is others'.
            psycopg2.OperationalError: the queues that it consumes are gone.
        """
        if self._generation != self.attendant.generation:
            self._begin_anew(self.attendant.generation)
        if self._outdated:
            self._outdated = False
            raise psycopg2.OperationalError("the database does not know the queues any more that are consumed here")
        if self._deliver_one():
            return True
        return self._claim(force) > 0 and self._deliver_one()

    def _begin_anew(self, generation: int) -> None:
        """Others took this process for dead. Who had nothing in hand need not know."""
        if self._robbed:
            self._generation, self._robbed = generation, False
            raise LeaseLost("this worker was silent for so long that its messages were given to others")
        for one in list(self.subscriptions.values()):
            one.queue_id = self.attendant.subscribe(one.queue)
            if not one.queue_id:
                # Whoever asked for replies gives up by itself, and asks again through a queue that it declares.
                del self.subscriptions[one.queue]
                self._outdated = self._outdated or not one.awaits_replies
        self._generation = generation
        self._cursors = {one.queue_id: Cursor() for one in self.subscriptions.values()}
        self._ladder.restart()
        self._hungry = self._full = True

    def pause(self) -> float | None:
        """Seconds until `pump` has something to do by itself; None if it needs to be woken."""
        if not self.subscriptions:
            return None
        if self._buffer:
            return None if self._stalled else 0.0
        if self._notified and not self._retry.failing:
            return 0.0
        # Said first: from here on an ack that returns credit wakes us, from whichever thread.
        self._stalled = True
        asked, _ = self._asked()
        self._stalled = not asked
        if not asked and not self._eaten():
            return None  # an ack wakes us, and the attendant when a queue is no longer paused
        if self._retry.failing:
            return self._retry.left
        climbs = self._climbs(asked)
        if climbs and self._hungry:
            return 0.0
        following = self._ladder.next if climbs else self._last_claim + Ladder.REST_S
        if self.attendant.deaf:
            following = min(following, self._last_claim + Ladder.POLL_S)
        return max(0.0, following - time.monotonic())

    def _deliver_one(self) -> bool:
        with self._lock:
            self._stalled = bool(self._buffer)  # said first, as in `pause`
            try:
                for one in self._buffer:
                    if one.subscription.no_ack or one.subscription.channel.qos.can_consume():
                        self._buffer.remove(one)
                        break
                else:
                    return False
            except (ValueError, RuntimeError):
                return False  # a signal handler has given it back
            self._progress = time.monotonic()
            self._stalled = False
            if not one.subscription.no_ack:
                self.attendant.outstanding.add((one.message, one.fence))
        return deliver(one)

    def _asked(self) -> tuple[list[Subscription], int]:
        """The queues from which something may be delivered after an ack, and how much."""
        asked, most = [], 0
        credits: dict[Channel, int] = {}
        for subscription in self.subscriptions.values():
            if subscription.no_ack or subscription.queue_id in self.attendant.paused:
                continue
            channel = subscription.channel
            if channel not in credits:
                estimate = channel.qos.can_consume_max_estimate()
                credits[channel] = Pace.MOST if estimate is None else estimate
                if credits[channel] and not channel.qos.can_consume():
                    credits[channel] = 0
                most += min(Pace.MOST, credits[channel])
            if credits[channel]:
                asked.append(subscription)
        return asked, most

    def _eaten(self) -> list[Subscription]:
        """The queues from which something may be delivered at any time."""
        return [one for one in self.subscriptions.values() if one.no_ack and one.queue_id not in self.attendant.paused]

    def _climbs(self, asked: list[Subscription]) -> bool:
        """Whether the ladder says when to look again; else an ack does, which returns credit."""
        return bool(asked) or all(one.no_ack for one in self.subscriptions.values())

    def _claim(self, force: bool) -> int:
        now, consumer = time.monotonic(), self.attendant.consumer
        if not consumer:
            return 0  # just taken for dead; `pump` says so
        if self._buffer or self._retry.left:
            return 0
        if self.attendant.deaf and now - self._last_claim >= Ladder.POLL_S:
            self._notified = True
        self._stalled = True
        asked, credit = self._asked()
        self._stalled = not asked
        eaten = self._eaten()
        if not (asked or eaten):
            if self._notified:  # for when there is credit again; kept, it would keep the event loop turning
                self._notified, self._hungry, self._full = False, True, True
            return 0
        if not (force or self._notified or self._retry.failing):
            if self._climbs(asked):
                if not self._hungry and now < self._ladder.next:
                    return 0
            elif now < self._last_claim + Ladder.REST_S:
                return 0
        # From the lowest id on, after a wake-up or after finding nothing: for who committed late. Where dead index
        # entries make that slow, it may take a twentieth of the time, and the cursor has to do in between.
        affordable = now - self._last_full >= self.FULL_SHARE * self._full_cost
        full = affordable and (
            self._full
            or self._notified
            or not self._hungry
            or any(self._cursors[s.queue_id].full_scan_due() for s in asked)
        )
        self._last_claim = now
        self._notified = False
        acks = self.attendant.ledger.take()
        if len(asked) > 1:
            self._rotation = (self._rotation + 1) % len(asked)
            asked = asked[self._rotation :] + asked[: self._rotation]
        most = max(min(credit, Pace.MOST), self.pace.ahead()) if asked else Pace.MOST
        queues = [s.queue_id for s in asked]
        try:
            result = MessageStore(self.attendant.sessions).claim(
                consumer,
                {queue: self._cursors[queue].lanes(full) for queue in queues},
                limit=most,
                auto_ack_queues=[s.queue_id for s in eaten],
                auto_ack_limit=Pace.MOST_EATEN,
                acks=acks,
                may_sleep=full or not affordable,
            )
        except (psycopg2.Error, SchemaError) as error:
            # Repaired here, while our lease is valid: Celery's own reconnect would throw away what it has reserved.
            self.attendant.ledger.put_back(acks)
            self.attendant.doubt()
            if queues:  # as a claim that brings nothing but events counts for nothing
                observer.claim_failed()
            logger.warning("claiming failed (%s); next try in %.2f s", loggable(error), self._retry.failed())
            self._ladder.restart()
            self._full = self._hungry = True
            return 0
        except BaseException:
            self.attendant.ledger.put_back(acks)
            self.attendant.doubt()
            raise
        self.attendant.ledger.delivered(acks)
        self._retry.succeeded()
        brought = result.messages
        wanted = sum(one.queue_id in queues for one in brought)
        # An idle worker among two others gets three heartbeats of theirs in 2 s, which say nothing about its work.
        if queues and (wanted or not brought):
            observer.claimed(time.monotonic() - now, wanted)
        if full:
            self._last_full = time.monotonic()
            self._full_cost = self._last_full - now
        known = {s.queue_id: s for s in (*asked, *eaten)}
        return self._received(result, full or not affordable, self._climbs(asked), known)

    def _received(self, result: ClaimResult, enough: bool, climbs: bool, known: dict[int, Subscription]) -> int:
        taken = result.messages
        acked = [one for one in taken if not known[one.queue_id].no_ack]
        if acked:
            self._hungry, self._full = True, False
            self._ladder.restart()
        elif climbs:
            # What is consumed without acks has its publishers always notify: only of a full batch there is more.
            self._hungry, self._full = not enough or len(taken) >= Pace.MOST_EATEN, True
            self._ladder.climb(result.due_in_s)
        highest: dict[tuple[int, int], int] = {}
        for one in acked:
            if one.available_at is None:  # a ready one
                key = one.queue_id, one.priority
                highest[key] = max(highest.get(key, 0), one.id)
        for (queue, priority), message in highest.items():
            self._cursors[queue].claimed(priority, message)
        taken.sort(key=lambda one: (-one.priority, one.id))
        try:
            deliveries = usable(MessageStore(self.attendant.sessions), taken, known, self.attendant.stopped)
        except BaseException:
            self.attendant.doubt()  # all of them are claimed, and none is in the buffer
            raise
        deliveries = without_forgotten(self.attendant, deliveries)
        if deliveries:
            if not self.attendant.outstanding:
                self.pace.delivered()
            with self._lock:
                self._progress = time.monotonic()
                self._buffer.extend(deliveries)
                self._stalled = False
            self.attendant.hurry()
        return len(deliveries)
