"""Claims, acknowledgements and what else becomes of messages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import psycopg2

from celery_postgres.database.dead_letter import EXPIRED, DeadLetterKind, DeadLetterReason, log_dead_letter
from celery_postgres.database.flow import Closed, Turns
from celery_postgres.database.session import Row
from celery_postgres.database.snapshot import Snapshot
from celery_postgres.database.store import Store

#: The id of a message, and the fence under which this process has claimed it.
Claim = tuple[int, int]


def tag_of(claim: Claim) -> str:
    """The delivery tag that names a claim."""
    return f"{claim[0]}.{claim[1]}"


def claim_of(delivery_tag: str) -> Claim:
    """The claim that a delivery tag names."""
    message, _, fence = delivery_tag.partition(".")
    return int(message), int(fence)


#: The priorities of messages, in the order in which they are claimed.
PRIORITIES = tuple(range(9, -1, -1))
#: SQLSTATE classes of an error that the values of one row cause: data, a constraint.
_OF_A_ROW = frozenset({"22", "23"})


class ClaimedMessage(NamedTuple):
    """A message that a claim has brought. A tuple, which is made in a third of the time of a dataclass.

    Attributes:
        id: the message's id; also of one that was deleted as it was claimed, for a consumer without acks.
        fence: identifies the claim. Odd if the message was claimed before.
        available_at: when the message was due; None if it was ready at once.
        expired: AMQP's expiration of the message is over.
        revoked: the task was revoked while it waited.
        flow_key: the hash of its key, in a fair queue.
        published_at: in seconds since 1970.
    """

    id: int
    queue_id: int
    fence: int
    priority: int
    failures: int
    available_at: datetime | None
    expired: bool | None
    revoked: bool
    flow_key: int | None
    payload: str
    published_at: float | None = None

    @property
    def claim(self) -> Claim:
        return self.id, self.fence


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What a claim has brought.

    Attributes:
        due_in_s: if it has brought nothing, the seconds until the next scheduled message of the coming day, if there
            is one.
        one_had_failed: a message that has failed before was there, and kept others from being claimed.
        snapshot: the transactions whose messages the claim could see.
        closed: the keys whose limits have allowed less than their share.
        queue_closed: the limits of the whole fair queue, if they have allowed less than the limit of the claim.
        keyed_wait: a fair queue has ready messages with keys.
        since: by key, the time of the database from which on what runs of it was claimed.
        clock: of a claim by turns, the database's, in seconds since 1970.
        relieved: it has brought nothing, and publishers rely on another consumer's next claim.
    """

    messages: list[ClaimedMessage]
    due_in_s: float | None
    one_had_failed: bool
    snapshot: Snapshot
    closed: Mapping[int, Closed] = field(default_factory=dict)
    keyed_wait: bool = False
    queue_closed: Closed | None = None
    since: Mapping[int, float] = field(default_factory=dict)
    clock: float | None = None
    relieved: bool = False


class MessageStore(Store):
    """Claim messages and settle claims."""

    #: The rows of one transaction.
    BATCH = 1000

    # -- claiming

    def claim(
        self,
        consumer: int,
        lowest_ids: Mapping[int, Sequence[int]],
        *,
        limit: int,
        auto_ack_queues: Sequence[int] = (),
        auto_ack_limit: int = 0,
        acks: Sequence[Claim] = (),
        may_sleep: bool = False,
        polls_for_s: float = 0.0,
        brief: int = 0,
        brief_for_s: float = 0.0,
        awake_from: int | None = None,
        peeked: Sequence[int] = (),
    ) -> ClaimResult:
        """Acknowledge `acks` and claim up to `limit` messages, in one round trip.

        Args:
            lowest_ids: the ids of the queues to claim from, in order of preference, each with the lowest id that a
                ready message can have there, by the order of `PRIORITIES`.
            auto_ack_queues: the queues to consume without acks; their messages are deleted as they are claimed.
            auto_ack_limit: the limit for each of them.
            may_sleep: publishers have to notify this consumer, if nothing was claimed.
            polls_for_s: they have to from so many seconds on, because until then it claims again and again.
            brief, brief_for_s: so do they if it has claimed so many messages at most, which are done soon.
            awake_from: those of queues that are consumed without acks do not if so many of their messages were claimed.
            peeked: the queues in which to look for messages with keys, which are left to `claim_turns`.
        """
        queues = list(lowest_ids)
        rows = self._run(
            "claim",
            consumer=consumer,
            fence=new_fence(),
            acked_ids=[message for message, _ in acks],
            acked_fences=[fence for _, fence in acks],
            queues=queues,
            lane_queues=[queue for queue in queues for _ in PRIORITIES],
            lane_priorities=list(PRIORITIES) * len(queues),
            lane_ids=[lowest for of_queue in lowest_ids.values() for lowest in of_queue],
            limit=limit,
            auto_ack_queues=list(auto_ack_queues),
            auto_ack_limit=auto_ack_limit,
            may_sleep=may_sleep,
            polls_for=polls_for_s,
            brief=brief,
            brief_for=brief_for_s,
            awake_from=awake_from,
            peeked=list(peeked),
        )
        return _result(rows)

    def wake(self, queues: Sequence[int]) -> None:
        """Wake a consumer that sleeps for each of these queues."""
        self._run("wake", queues=list(queues))

    def claim_turns(self, consumer: int, turns: Turns, *, limit: int, acks: Sequence[Claim] = ()) -> ClaimResult:
        """Acknowledge `acks` and claim up to `limit` messages of a fair queue by turns, in one round trip."""
        rows = self._run(
            "claim_turns",
            consumer=consumer,
            fence=new_fence(),
            acked_ids=[message for message, _ in acks],
            acked_fences=[fence for _, fence in acks],
            queue=turns.queue,
            limit=limit,
            turn_keys=[turn.key for turn in turns.turns],
            turn_priorities=[turn.priority for turn in turns.turns],
            turn_ids=[turn.lowest_id for turn in turns.turns],
            turn_shares=[turn.share for turn in turns.turns],
            turn_orders=[turn.in_order for turn in turns.turns],
            turn_since=[turn.since for turn in turns.turns],
            clock=turns.clock,
            failed=turns.failed,
        )
        return _result(rows)

    def claims(self, consumer: int, limit: int) -> list[Claim]:
        """What a consumer has claimed."""
        return self._run("claims", consumer=consumer, limit=limit)

    def old_claims(self, consumer: int) -> list[Claim]:
        """What a consumer claimed more than 10 s ago."""
        return self._run("old_claims", consumer=consumer)

    # -- settling

    def settle(self, acks: Sequence[Claim]) -> None:
        """Acknowledge claims, outside of a claim."""
        self._run("settle", acked_ids=[message for message, _ in acks], acked_fences=[fence for _, fence in acks])

    def settle_forgotten(self, marks: Mapping[int, str]) -> None:
        """Acknowledge messages again which a crash of the server has made ready again.

        Args:
            marks: by the message's id, the mark that its publisher has put into it: after a crash the same id may be
                another message's.
        """
        self._run("settle_forgotten", ids=list(marks), marks=list(marks.values()))

    def release(
        self,
        claims: Sequence[Claim],
        max_failures: int,
        *,
        failed: bool = False,
        pause_s: float = 0.0,
        worker: str | None = None,
    ) -> int:
        """Release claims, so that their messages are available again. Returns how many of the claims were still held.

        Args:
            failed: Celery had the messages, and this counts as a failure of each.
            pause_s: the seconds until they are available.
            worker: the machine of a consumer that is gone.

        Raises:
            psycopg2.Error: if it is about the values of a row, the other claims have been released.
        """
        count, refused = 0, None
        parts = [sorted(claims[start : start + self.BATCH]) for start in range(0, len(claims), self.BATCH)]
        while parts:
            part = parts.pop()
            try:
                ((_, released, dead),) = self._run(
                    "release",
                    ids=[message for message, _ in part],
                    fences=[fence for _, fence in part],
                    failed=failed,
                    max_failures=max_failures,
                    reason=DeadLetterKind.FAILED.value,
                    pause=pause_s,
                    worker=worker,
                )
                count += released
                for message, queue, failures in dead or ():
                    log_dead_letter(int(message), queue, DeadLetterReason(DeadLetterKind.FAILED, failures))
            except psycopg2.Error as error:
                if (error.pgcode or "")[:2] not in _OF_A_ROW:
                    raise
                if len(part) > 1:
                    parts += [part[: len(part) // 2], part[len(part) // 2 :]]
                else:
                    refused = error
        if refused is not None:
            raise refused
        return count

    def release_all(self, consumer: int, max_failures: int, *, failed: bool, worker: str | None = None) -> int:
        """Release everything that is claimed by a consumer that claims no more. Returns how much that was."""
        count = 0
        while claims := self.claims(consumer, self.BATCH):
            self.release(claims, max_failures, failed=failed, worker=worker)
            count += len(claims)
        return count

    def defer(self, scheduled: Sequence[tuple[Claim, datetime]]) -> set[int]:
        """Release claims whose ETA has not come, until then. Returns the ids of their messages."""
        rows = self._run(
            "defer",
            ids=[message for (message, _), _ in scheduled],
            fences=[fence for (_, fence), _ in scheduled],
            etas=[eta for _, eta in scheduled],
        )
        return {message for (message,) in rows}

    def bury(self, dead: Iterable[tuple[Claim, DeadLetterReason]]) -> None:
        """Make dead letters of claimed messages."""
        dead = list(dead)
        self._run(
            "bury",
            ids=[message for (message, _), _ in dead],
            fences=[fence for (_, fence), _ in dead],
            reasons=[str(reason) for _, reason in dead],
        )

    def bury_auto_acked(self, message: int, queue: str, reason: DeadLetterReason, payload: str) -> None:
        """Make a dead letter of a message that was deleted as it was claimed."""
        self._run("bury_auto_acked", message_id=message, queue=queue, reason=str(reason), payload=payload)

    # -- waiting messages

    def mark_revoked(self, task_ids: Sequence[str]) -> None:
        """Note in the waiting messages of these tasks that they are revoked: workers forget that after three hours."""
        self._run("mark_revoked", task_ids=list(task_ids))

    def drop_expired(self) -> None:
        """Delete the waiting messages whose AMQP expiration is over; tasks become dead letters."""
        count = self.BATCH
        while count == self.BATCH:
            ((count,),) = self._run("drop_expired_messages", limit=self.BATCH, reason=str(EXPIRED))


def _result(rows: list[Row]) -> ClaimResult:
    (snapshot, due_in_s, one_had_failed, keyed_wait, closed, relieved, *_, clock), *claimed = rows
    limits = {key: Closed(places, opens_in_s) for key, places, opens_in_s, _ in closed or () if places is not None}
    queue_closed = limits.pop(None, None)
    return ClaimResult(
        [ClaimedMessage(*row[6:]) for row in claimed],
        due_in_s,
        one_had_failed,
        Snapshot.parse(snapshot),
        limits,
        bool(keyed_wait),
        queue_closed,
        {key: oldest for key, _, _, oldest in closed or () if oldest is not None},
        clock,
        bool(relieved),
    )


def new_fence() -> int:
    """Identifies one claim for good: even, below 2^57."""
    return int.from_bytes(os.urandom(7), "big") << 1
