"""What metrics, health checks and pages read; at a cost that a scrape every few seconds can afford."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from celery_postgres.database.fleet_view_store import Running, running_of
from celery_postgres.database.minute_view_store import MinuteViewStore
from celery_postgres.database.operator_store import ConsumerOverview, OperatorStore
from celery_postgres.database.queue_view_store import Outcomes
from celery_postgres.database.store import Runner, Store


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The messages of a queue by state. Counting stops at the cap of the question.

    Attributes:
        queue: its name, or `other` for all queues that have no row of their own.
        ready: messages that a consumer could claim now.
        scheduled: messages whose time has not come.
        claimed: messages that consumers have claimed.
        oldest_s: for how many seconds the oldest ready message could have been claimed; 0.0 without one.
        consumers: processes that consume the queue; for `other`, those of the queue with ready messages that has the
            fewest, and None while none has ready messages.
    """

    queue: str
    ready: int
    scheduled: int
    claimed: int
    oldest_s: float
    consumers: int | None


@dataclass(frozen=True, slots=True)
class KeyDepth:
    """The messages of a key of a fair queue. Counting stops at the cap of the question.

    Attributes:
        queue: its name.
        key: the hash of the key, in 16 hexadecimal digits, as `limits list` shows it too.
        waiting: its ready messages.
        running: those that consumers have claimed.
    """

    queue: str
    key: str
    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class KeyCount:
    """How many keys of a fair queue wait, within the number of keys that the question walks.

    Attributes:
        queue: its name.
        waiting: keys with ready messages.
        at_limit: those of them of which as many run as their concurrency allows.
        throttled: those of them whose rate allows no other message now.
    """

    queue: str
    waiting: int
    at_limit: int
    throttled: int


@dataclass(frozen=True, slots=True)
class DeadLetterCount:
    """The dead letters of a queue, or of all `other` queues.

    Attributes:
        queue: where they came from.
        count: how many there are, within the cap of the question.
        recent: how many of them were set aside in the last 15 minutes.
    """

    queue: str
    count: int
    recent: int


@dataclass(frozen=True, slots=True)
class BeatRun:
    """An entry of the schedule that a beat has seen and nobody has disabled, and when it was last sent, or enabled."""

    entry: str
    last_run_at: datetime


@dataclass(frozen=True, slots=True)
class TaskState:
    """What is known of a task.

    Attributes:
        task_id: its id.
        state: Celery's state; PENDING if it has no result and its message exists; None if it has neither, because the
            result has expired or the message was dead-lettered.
        done_at: when the state was stored, in UTC; None without a result, and for a time that Python cannot hold.
        result: what was stored as its result; for `celery_postgres.operations.load_result`.
    """

    task_id: str
    state: str | None
    done_at: datetime | None
    result: bytes | None


class MonitorStore(Store):
    """Figures of queues, consumers, dead letters and the schedule."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._operator = OperatorStore(runner)
        self._minutes = MinuteViewStore(runner)

    def begin(self) -> None:
        """Take the rights of `celery_monitor`, if that role exists, until the transaction ends; plan by index."""
        self._run("monitor_begin")

    def queue_depths(self, *, first: Sequence[str] = (), named: int, walked: int, cap: int) -> list[QueueDepth]:
        """The depth of every durable queue, with or without consumers.

        Args:
            first: queues that have a row of their own before others.
            named: how many queues have a row of their own.
            walked: how many of the others are looked at.
            cap: how many messages are counted for each queue and state; so many means as many or more.
        """
        rows = self._run("queue_depths", first=list(first), named=named, walked=walked, cap=cap)
        return [QueueDepth(*row) for row in rows]

    def key_depths(
        self, *, first: Sequence[str] = (), named: int, walked: int, top: int, cap: int
    ) -> tuple[list[KeyCount], list[KeyDepth]]:
        """Of each fair queue how many keys wait, and its keys with most messages waiting or running.

        Args:
            first: queues that are looked at before others.
            named: how many queues are looked at.
            walked: how many keys of each.
            top: how many keys of each are returned by what waits, and as many by what runs.
            cap: how many messages are counted for each key.
        """
        counts, depths = [], []
        for queue, key, one, two, three in self._run(
            "key_depths", first=list(first), named=named, walked=walked, top=top, cap=cap
        ):
            if key is None:
                counts.append(KeyCount(queue, one, two, three))
            else:
                depths.append(KeyDepth(queue, key, one, two))
        return counts, depths

    def dead_letter_counts(self, queues: Sequence[str], *, cap: int) -> list[DeadLetterCount]:
        """The dead letters of each of these queues, and of all others together as `other`; the `cap` newest count."""
        return [DeadLetterCount(*row) for row in self._run("dead_letter_counts", queues=list(queues), cap=cap)]

    def consumers(self) -> list[ConsumerOverview]:
        """The processes that consume."""
        return self._operator.registered_consumers()

    def beat_runs(self, entries: Iterable[str]) -> list[BeatRun]:
        """Those of these entries of the schedule that a beat has seen."""
        return [BeatRun(*row) for row in self._run("beat_runs", names=list(entries))]

    def beat_seen_s(self) -> float | None:
        """How many seconds ago a beat was seen that sends entries; None if none ran in the last day."""
        ((seen_s,),) = self._run("newest_beat")
        return None if seen_s is None else float(seen_s)

    def running(self) -> list[Running]:
        """The tasks that run: of each worker those that it runs the longest."""
        now = datetime.now(UTC)
        return [
            one
            for seen_s, reported in self._run("reported_runs")
            for one in running_of(reported, now - timedelta(seconds=seen_s))
        ]

    def outcomes(self, within_s: float) -> list[Outcomes]:
        """How tasks have ended in the last seconds, by name, and how long they ran."""
        now = datetime.now(UTC)
        # The database's clock may be ahead.
        return self._minutes.outcomes(now - timedelta(seconds=within_s), now + timedelta(days=1))

    def is_usable(self) -> bool:
        """Whether the role may read and change messages, which a consumer does."""
        ((usable, _),) = self._run("broker_usable")
        return bool(usable)

    def waiting_by_tenant(self, queue: str, *, cap: int) -> dict[UUID | None, int]:
        """The waiting messages of a queue by tenant, scheduled ones included; at most `2 * cap` are counted."""
        rows = self._run("waiting_by_tenant", queue=queue, cap=cap)
        return {None if tenant is None else UUID(str(tenant)): int(count) for tenant, count in rows}

    def task_states(self, task_ids: Sequence[str]) -> dict[str, TaskState]:
        """The state of each of these tasks, by its id."""
        found = {}
        for task_id, state, done_at, result in self._run("task_states", task_ids=list(task_ids)):
            done_at = None if done_at is None else done_at.replace(tzinfo=UTC)
            found[task_id] = TaskState(task_id, state, done_at, None if result is None else bytes(result))
        return found
