"""When to claim, from which queues, and how much."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from celery_postgres.consumer.batch_size import BatchSize
from celery_postgres.consumer.ended_transactions import EndedTransactions
from celery_postgres.consumer.event_pace import EventPace
from celery_postgres.consumer.lead import BRIEF_S, Lead
from celery_postgres.consumer.outlet import Subscription
from celery_postgres.consumer.polling import PollingBackoff
from celery_postgres.consumer.scan_position import ScanPosition
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.flow import Turns
from celery_postgres.database.message_store import ClaimedMessage, ClaimResult


@dataclass(frozen=True, slots=True)
class Plan:
    """One claim.

    Attributes:
        queues: the subscriptions with acks to claim from, by the queue's id, in order of preference.
        auto_ack: the same without acks.
        lowest_ids: where the scan of each queue begins; see `MessageStore.claim`.
        limit: how many messages to claim.
        full_scan: the scan begins at the lowest id.
        may_sleep: after this claim nothing is left behind, so publishers have to notify this consumer.
        polls: see `ClaimPolicy.polls`.
        polls_in_s: if it brings nothing, the next claim comes so many seconds later and no sooner; publishers rely on
            that, again and again. 0: they rely on nothing.
        brief: if it brings so many messages at most, they are done so soon that publishers may rely on the next claim.
        only_events: the connection consumes nothing but events.
        fair_queues: those of `queues` that are fair.
        turns: whose turn it is in one of them; None: claim from everything else.
        begun: when the claim began, by the monotonic clock.
    """

    queues: dict[int, Subscription]
    auto_ack: dict[int, Subscription]
    lowest_ids: dict[int, list[int]]
    limit: int
    full_scan: bool
    may_sleep: bool
    polls: bool
    polls_in_s: float
    brief: int
    only_events: bool
    fair_queues: list[int]
    turns: Turns | None
    begun: float


class ClaimPolicy:
    """Used by the thread of one Kombu connection, except `notify` and `expect_messages`.

    Attributes:
        batch_size: how many messages to claim ahead.
        retry: the pauses after claims that failed.
        lead: whether publishers rely on the next claim.
    """

    #: Where dead index entries make a full scan slow, it may take one part in so many of the time; the scan position
    #: has to suffice in between.
    FULL_SCAN_SHARE = 20
    #: The same while there is nothing that it should find: no long transaction has ended since the last one.
    IDLE_SCAN_SHARE = 100

    def __init__(self) -> None:
        self.batch_size = BatchSize()
        self.retry = Backoff()
        self.lead = Lead()
        self._polling = PollingBackoff()
        self._events = EventPace()
        self._positions: dict[int, ScanPosition] = {}
        self._ended = EndedTransactions()
        self._rotation = 0
        #: The database has reported that there may be messages.
        self._notified = False
        #: The latest claim brought messages, so there may be more.
        self._expecting = True
        #: The next claim scans from the lowest id, for publishers that committed late.
        self._scan_fully = True
        #: Publishers know already that this consumer sleeps.
        self._slept = False
        self._last_claim = self._last_full_scan = self._last_full_scan_took = 0.0
        #: The less of the latest two: one alone may have waited for a processor or the network, and not for the scan.
        self._full_scan_took = 0.0

    @property
    def notified(self) -> bool:
        return self._notified and not self._polling.promised_s()

    @property
    def sees_all_next(self) -> bool:
        """Whether publishers may notify this consumer before its next claim: that is to see all that is ready, because
        the latest one had room for more, and it does not lead while many publish."""
        return self._scan_fully and not self._polling.in_stream

    def slept(self) -> None:
        """Publishers have been told that this consumer sleeps: the client of its only task may send the next one."""
        self._slept = True
        self.lead.ended()

    @property
    def events_left_s(self) -> float:
        """Seconds for which also a notification is no reason to claim."""
        return self._events.left

    def notify(self) -> None:
        self._notified = True

    def expect_messages(self) -> None:
        self._expecting = True

    def start_over(self) -> None:
        """What is consumed has changed, or a claim has failed: claim at once, by a full scan."""
        self._polling.restart()
        self._expecting = self._scan_fully = True

    def add_queue(self, queue_id: int) -> None:
        self._positions.setdefault(queue_id, ScanPosition())
        self.start_over()

    def replace_queues(self, queue_ids: list[int]) -> None:
        self._positions = {queue_id: ScanPosition() for queue_id in queue_ids}
        self.start_over()

    def idle_s(self) -> float:
        """Seconds since the latest claim."""
        return time.monotonic() - self._last_claim

    def poll_without_notifications(self) -> None:
        """Notifications do not arrive: poll as often as `inspect` needs."""
        if self.idle_s() >= PollingBackoff.WITHOUT_NOTIFICATIONS_S:
            self._notified = True

    def no_credit(self) -> None:
        """Nothing may be claimed now. A notification that stayed would keep the event loop turning."""
        if self._notified:
            self._notified, self._expecting, self._scan_fully = False, True, True

    def is_due(self, *, polls: bool) -> bool:
        """Whether to claim now. `polls`: otherwise an ack is what to wait for, which returns credit."""
        now = time.monotonic()
        if self.retry.failing:
            return True
        if self._polling.promised_s() or self.events_left_s:
            return False
        if self._notified:
            return True
        if polls:
            return self._expecting or now >= self._polling.next
        return now >= self._last_claim + PollingBackoff.REST_S

    def pause(self, *, polls: bool, without_notifications: bool) -> float:
        """Seconds until a claim is due by itself."""
        if self.retry.failing:
            return self.retry.left
        if promised_s := self._polling.promised_s():
            return promised_s
        if polls and self._expecting:
            return self.events_left_s
        following = self._polling.next if polls else self._last_claim + PollingBackoff.REST_S
        if without_notifications:
            following = min(following, self._last_claim + PollingBackoff.WITHOUT_NOTIFICATIONS_S)
        return max(self.events_left_s, following - time.monotonic())

    def plan(
        self,
        queues: list[Subscription],
        credit: int,
        auto_ack: list[Subscription],
        *,
        polls: bool,
        due: bool = True,
        only_events: bool = False,
        fair_queues: Sequence[int] = (),
        turns: Turns | None = None,
        keys_wait: bool = False,
    ) -> Plan:
        """The claim to send now.

        Args:
            due: it is sent because it is due, and so will the next one be.
            only_events, fair_queues, turns: see `Plan`.
            keys_wait: fair queues have keys whose turn has not come.
        """
        now = time.monotonic()
        # After a notification, or after a claim that brought nothing, from the lowest id on: for late commits.
        since = now - self._last_full_scan
        affordable = since >= self.FULL_SCAN_SHARE * self._full_scan_took
        full_scan = (
            turns is None
            and affordable
            and (
                self._scan_fully
                or self._notified
                or not self._expecting
                or (
                    (self._ended.long_ended or since >= self.IDLE_SCAN_SHARE * self._full_scan_took)
                    and any(self._positions[one.queue_id].full_scan_due for one in queues)
                )
            )
        )
        self._last_claim = now
        relied = polls and due and not only_events and turns is None
        # A claim by turns sees nothing of other queues, remote control among them: they were perhaps what it was about.
        self._notified = self._notified and turns is not None
        if len(queues) > 1:
            self._rotation = (self._rotation + 1) % len(queues)
            queues = queues[self._rotation :] + queues[: self._rotation]
        return Plan(
            queues={one.queue_id: one for one in queues},
            auto_ack={one.queue_id: one for one in auto_ack},
            lowest_ids={one.queue_id: self._positions[one.queue_id].lowest_ids(full_scan=full_scan) for one in queues},
            limit=self.limit(credit) if queues else BatchSize.LIMIT,
            full_scan=full_scan,
            may_sleep=turns is None and not keys_wait and (full_scan or not affordable),
            polls=polls,
            polls_in_s=self._polling.promise() if relied and not self._slept else 0.0,
            brief=self._brief(credit) if relied else 0,
            only_events=only_events,
            fair_queues=list(fair_queues),
            turns=turns,
            begun=now,
        )

    def _brief(self, credit: int) -> int:
        if not self._polling.is_dense:
            return 0
        return min(self.batch_size.within(BRIEF_S), self.limit(credit) - 1)

    def limit(self, credit: int) -> int:
        """How many messages to claim with so much credit."""
        return max(min(credit, BatchSize.LIMIT), self.batch_size.ahead())

    def failed(self) -> float:
        """The claim has failed; returns the seconds until the next one."""
        self.start_over()
        return self.retry.failed()

    def succeeded(self, plan: Plan, result: ClaimResult) -> None:
        """Note what a claim has brought."""
        self.retry.succeeded()
        if plan.full_scan:
            self._last_full_scan = time.monotonic()
            took = self._last_full_scan - plan.begun
            self._full_scan_took, self._last_full_scan_took = min(took, self._last_full_scan_took), took
        with_acks = [one for one in result.messages if one.queue_id in plan.queues]
        self._slept = False
        if plan.may_sleep:  # else the claim has left in the database what publishers rely on
            self._note_lead(plan, len(with_acks), relieved=bool(result.relieved))
        if plan.turns is not None:
            if with_acks:
                self._expecting = self._scan_fully = True
                self._polling.found(len(with_acks), max(one.id for one in with_acks))
            return
        if result.snapshot.next_id < self._ended.next_id:
            # This is another server, or a restored database: nothing holds that was known.
            self._ended = EndedTransactions()
            self.replace_queues(list(self._positions))
        self._ended.note(result.snapshot, plan.begun, full_scan=plan.full_scan)
        had_room = len(with_acks) < plan.limit and not result.one_had_failed
        self._advance(plan, with_acks, had_room=had_room, complete=not result.one_had_failed)
        if with_acks:
            # A claim that had room for more was probably the last: the next one scans fully, so that it may sleep.
            self._expecting, self._scan_fully = True, had_room
            self._polling.found(len(with_acks), max(one.id for one in with_acks))
        elif plan.polls:
            # Publishers of queues without acks always notify, so only a full batch means that there are more.
            full_batch = len(result.messages) >= BatchSize.AUTO_ACK_LIMIT
            self._expecting, self._scan_fully = not plan.may_sleep or full_batch, True
            promised_s = plan.polls_in_s if plan.may_sleep and not result.relieved else 0.0
            self._polling.found_nothing(result.due_in_s, promised_s, relieved=result.relieved)
            if plan.only_events:
                self._polling.sooner(self._events.claimed(len(result.messages)))

    def _note_lead(self, plan: Plan, brought: int, *, relieved: bool) -> None:
        if (plan.polls_in_s and not relieved) if brought == 0 else brought <= plan.brief:
            self.lead.taken()
        elif brought == 0:
            self.lead.ended()
        # With more work, publishers that have read that this consumer leads may commit only now, and wake nobody.

    def _advance(self, plan: Plan, messages: list[ClaimedMessage], *, had_room: bool, complete: bool) -> None:
        """Tell the positions what a claim has brought.

        Args:
            had_room: the claim has left no ready message.
            complete: no message that has failed before has kept others back.
        """
        by_queue: dict[int, list[ClaimedMessage]] = {queue_id: [] for queue_id in plan.queues}
        for one in messages:
            by_queue[one.queue_id].append(one)
        # Ready messages are read queue by queue. Scheduled ones, which are read apart, may take the places of some.
        in_order = complete and all(one.available_at is None for one in messages)
        last = next((queue_id for queue_id in reversed(by_queue) if by_queue[queue_id]), None)
        before_last = in_order and last is not None
        for queue_id, brought in by_queue.items():
            before_last = before_last and queue_id != last
            self._positions[queue_id].claimed(
                brought, self._ended, begun=plan.begun, all_of_them=had_room or before_last, in_order=in_order
            )
