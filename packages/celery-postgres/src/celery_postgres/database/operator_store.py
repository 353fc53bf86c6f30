"""What an operator asks and does by hand, through the queue tool or through `celery_postgres.operations`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from celery_postgres.database.consumer_store import ConsumerStore
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.session import Session
from celery_postgres.database.store import EVERYTHING, Runner, Store

#: Rows that one statement changes.
BATCH = 1000
#: Only the application knows how often a message may fail. A manually released message gets one more attempt whatever
#: its failure count; if that attempt kills its worker, it is dead-lettered.
_NO_FAILURE_LIMIT = 32_767


@dataclass(frozen=True, slots=True)
class QueueOverview:
    """A queue and the number of its messages in each state.

    Attributes:
        queue: its name.
        paused: whether consumers claim nothing from it.
        ready: messages that a consumer could claim now.
        scheduled: messages whose time has not come.
        claimed: messages that consumers have claimed.
        taken_by_stock: messages that a stock Kombu consumer has taken; stock never deletes them.
        oldest_s: for how many seconds the oldest ready message could have been claimed; None without one.
        consumers: processes that consume the queue.
    """

    queue: str
    paused: bool
    ready: int
    scheduled: int
    claimed: int
    taken_by_stock: int
    oldest_s: float | None
    consumers: int


@dataclass(frozen=True, slots=True)
class ConsumerOverview:
    """A process that consumes, or one that is gone and has left claims behind: that one has only an id.

    Attributes:
        id: its number in `kombu_consumer`.
        hostname: its machine; None if the process is gone.
        pid: its process id on that machine.
        started_at: when it registered.
        queues: the queues that it consumes.
        claimed: messages that it has claimed.
    """

    id: int
    hostname: str | None
    pid: int | None
    started_at: datetime | None
    queues: list[str] | None
    claimed: int


@dataclass(frozen=True, slots=True)
class BlockedTask:
    """A task name that no worker runs."""

    task: str
    blocked_at: datetime


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """A message of a task, and where it is.

    Attributes:
        queue: its queue.
        paused: whether the queue is paused.
        consumed: whether anybody consumes the queue.
        waiting: whether nobody has claimed or taken it.
        consumer: the consumer that has claimed it; None if it waits, or if stock Kombu has taken it.
    """

    queue: str
    paused: bool
    consumed: bool
    waiting: bool
    consumer: int | None


@dataclass(frozen=True, slots=True)
class TakenByStock:
    """Messages of one queue that stock Kombu consumers have taken."""

    queue: str
    taken_by_stock: int


@dataclass(frozen=True, slots=True)
class Released:
    """Messages that were taken from a consumer.

    Attributes:
        count: how many are ready again.
        crashed: whether the consumer had ended without releasing them: then each has one failure more.
        unknown: whether there is no such consumer, and nothing that it has claimed.
    """

    count: int
    crashed: bool
    unknown: bool = False


class OperatorStore(Store):
    """Look into queues, tasks and consumers, and change them by hand."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._consumers = ConsumerStore(runner)

    # -- queues

    def queues(self, queue: str | None = None, *, cap: int | None = None) -> list[QueueOverview]:
        """Every queue, or the one of that name, in the order of their names.

        Args:
            queue: its name; all by default.
            cap: where counting stops, for each queue and state; everything is counted by default.
        """
        return [QueueOverview(*row) for row in self._run("queues_overview", queue=queue, cap=cap)]

    def set_paused(self, queue: str, *, paused: bool) -> bool:
        """Pause or resume a queue. Returns False if there is no such queue."""
        return bool(self._run("set_paused", queue=queue, paused=paused))

    # -- tasks

    def messages_of(self, task_id: str) -> list[TaskMessage]:
        """The messages of a task, the oldest first. Those of stock producers have no id to find them by."""
        return [TaskMessage(*row) for row in self._run("messages_of_task", task_id=task_id)]

    def cancel(self, task_id: str) -> int:
        """Mark the waiting messages of a task as revoked. Returns how many."""
        ((count, _),) = self._run("cancel_task", task_id=task_id)
        return int(count)

    def blocked_tasks(self) -> list[BlockedTask]:
        """The task names that no worker runs, in alphabetical order."""
        return [BlockedTask(*row) for row in self._run("blocked_tasks")]

    def block(self, task: str) -> None:
        """Let no worker run a task of this name. Blocking it twice is blocking it once."""
        self._run("block_task", task=task)

    def unblock(self, task: str) -> bool:
        """End that. Returns False if the name was not blocked."""
        return bool(self._run("unblock_task", task=task))

    # -- consumers

    def consumers(self) -> list[ConsumerOverview]:
        """All consumers, then those that are gone and have left claims behind."""
        gone = self._consumers.gone()
        return [
            *self.registered_consumers(),
            *(ConsumerOverview(one.consumer, None, None, None, None, one.claims) for one in gone),
        ]

    def registered_consumers(self) -> list[ConsumerOverview]:
        """All consumers that have a row."""
        return [ConsumerOverview(*row) for row in self._run("consumers_overview")]

    def has_crashed(self, consumer: int) -> bool:
        """Whether a consumer ended without releasing its messages: its row is gone, or the session that it had."""
        for had_session, lives in self._run("session_lives", consumer=consumer):
            return bool(had_session and not lives)
        return True

    # -- stock Kombu

    def taken_by_stock(self, older_than_s: float) -> list[TakenByStock]:
        """Messages that stock consumers took longer ago than that, by queue."""
        return [TakenByStock(*row) for row in self._run("count_taken_by_stock", age_s=older_than_s)]

    def delete_taken_by_stock(self, older_than_s: float) -> int:
        """Delete them, `BATCH` in each transaction. Returns how many."""
        count = 0
        while deleted := int(self._run("delete_taken_by_stock", age_s=older_than_s, limit=BATCH)[0][0]):
            count += deleted
        return count


def release_consumer(session: Session, consumer: int) -> Released:
    """Remove a consumer and make what it has claimed ready for others.

    One transaction: a consumer that did maintenance in between would see the consumer gone and its claims still there,
    and count a failure for each.
    """
    store = OperatorStore(session)
    with session.transaction():
        crashed = store.has_crashed(consumer)
        registered = ConsumerStore(session).remove(consumer)
        # Read once: a consumer that lives claims until its next heartbeat, and could claim what it has just lost.
        # Maintenance finds that.
        messages = MessageStore(session)
        claims = messages.claims(consumer, EVERYTHING)
        if not registered and not claims:
            return Released(0, crashed=False, unknown=True)
        return Released(messages.release(claims, _NO_FAILURE_LIMIT, failed=crashed), crashed)
