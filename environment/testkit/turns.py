"""A consumer of one queue without Kombu: it claims by turns as a worker does, and settles as it is told."""

from __future__ import annotations

from typing import Any

from celery_postgres.consumer.claim_policy import ClaimPolicy
from celery_postgres.consumer.claiming import Wanted, planned, send
from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.fairness import Fairness
from celery_postgres.consumer.outlet import Subscription
from celery_postgres.database.fair_store import FairStore
from celery_postgres.database.message_store import ClaimedMessage, MessageStore
from celery_postgres.database.session import Session

#: Failures after which a message is a dead letter.
MAX_FAILURES = 5


class TurnsConsumer:
    """Used by one thread; it has a connection of its own.

    Args:
        number: the id under which it claims.
        queue: the queue's id.
        places: how many messages a claim may bring.

    Attributes:
        fairness: the keys that it knows.
    """

    def __init__(self, url: str, number: int, queue: int, *, places: int = 64) -> None:
        self.session = Session(url)
        self.number = number
        self.messages = MessageStore(self.session)
        self._policy = ClaimPolicy()
        self._policy.add_queue(queue)
        self._claims = Claims(self.session, MAX_FAILURES, lambda: None, lambda: None)  # type: ignore[arg-type]
        self.fairness = Fairness(FairStore(self.session), self._claims.holds)
        self._places = places
        self._subscription: Any = Subscription("q", None, auto_ack=False, queue_id=queue)  # type: ignore[arg-type]

    def claim(self, *, fair: bool = True, force: bool = False) -> list[ClaimedMessage]:
        """Send the acks and claim.

        Args:
            fair: what the latest heartbeat has said of the queue.
            force: claim even if it is not yet time.
        """
        queues = [self._subscription]
        wanted = Wanted(
            queues, self._places, [], fair=[queues[0].queue_id] if fair else [], polls=True, only_events=False
        )
        plan = planned(self._policy, self.fairness, wanted, force=force)
        if plan is None:
            return []
        result = send(self.number, self._claims, self._policy, self.fairness, self.messages, plan)
        assert result is not None
        for one in result.messages:
            self._claims.deliver(one.claim)
        return result.messages

    def ack(self, message: ClaimedMessage) -> None:
        """Acknowledge, with the next claim."""
        self._claims.ack(message.claim)

    def fail(self, message: ClaimedMessage) -> None:
        """Release, as a failure of the message."""
        self._claims.requeue(message.claim)

    def settle(self) -> None:
        """Send the acks."""
        self._claims.settle_pending(self.messages)

    def die(self) -> None:
        """What it holds is released as when a worker is found dead; acks that were not sent are lost."""
        self.messages.release_all(self.number, MAX_FAILURES, failed=True)
        self.session.close()
