"""Look into queues, consumers, dead letters and results, and act on them: what an application does beside Celery's API.

`Operations` acts on the broker of an application, on connections of its own. What only reads (`monitor`, `task_states`,
`waiting_by_tenant`) does so on a connection of the caller and in the caller's transaction, whose time-outs and rights
then hold. An application needs no SQL on the tables of this package::

    from celery_postgres import operations

    with operations.of(app) as broker:
        broker.pause("reports")
        print([queue.ready for queue in broker.queues()])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from celery_postgres.broker.transport import Transport
from celery_postgres.database import pool
from celery_postgres.database.action_store import Action, ActionStore, LostConsumer
from celery_postgres.database.address import parsed
from celery_postgres.database.dead_letter_store import DeadLetter, DeadLetterFilter, DeadLetterStore, Requeued
from celery_postgres.database.fleet_operations import FleetOperations
from celery_postgres.database.limit_operations import LimitOperations
from celery_postgres.database.limit_store import KeyCounts, KeyStatus, Limit
from celery_postgres.database.monitor_store import (
    BeatRun,
    DeadLetterCount,
    KeyCount,
    KeyDepth,
    MonitorStore,
    QueueDepth,
    TaskState,
)
from celery_postgres.database.on_connection import is_usable, key_status, monitor, task_states, waiting_by_tenant
from celery_postgres.database.operator_store import (
    BlockedTask,
    ConsumerOverview,
    OperatorStore,
    QueueOverview,
    Released,
    TaskMessage,
    release_consumer,
)
from celery_postgres.database.options import Options
from celery_postgres.database.pool import Sessions
from celery_postgres.database.queue_store import QueueStore
from celery_postgres.database.rights import WORKER_FUNCTIONS, WORKER_SEQUENCES, WORKER_TABLES
from celery_postgres.database.session_settings import STATEMENT_TIMEOUT
from celery_postgres.database.task_status_store import TaskPhase, TaskStatus, TaskStatusStore
from celery_postgres.readmodel import ReadModel
from celery_postgres.readmodel.overdue import overdue_s
from celery_postgres.readmodel.slow_problems import usual_s
from celery_postgres.results.backend import DatabaseBackend
from celery_postgres.results.elsewhere import results_elsewhere
from celery_postgres.results.watching import load_result, watching


class Operations(LimitOperations, FleetOperations):
    """The broker, from outside of a worker. Any number of threads may use one.

    Every method raises `celery_postgres.SchemaError` if the tables or the rights are missing, and `psycopg2.Error` if
    the database cannot be reached or refuses.

    Args:
        sessions: made by `connect` and `of`.
        app: the Celery application, whose results may be in another database.
    """

    def __init__(self, sessions: Sessions, app: Any = None) -> None:
        self._sessions = sessions
        self._app = app
        self._operator = OperatorStore(sessions)
        self._queues = QueueStore(sessions)
        self._dead_letters = DeadLetterStore(sessions)
        #: What people did: wrap in `actions.recorded(source=…, actor=…, action=…)` what somebody does by hand.
        self.actions = ActionStore(sessions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless something else in this process uses them."""
        pool.give_back(self._sessions)

    # -- queues

    def queues(self, *, cap: int | None = None) -> list[QueueOverview]:
        """All queues with their messages by state, by name; those of remote control, events and replies last.

        Args:
            cap: where counting stops, for each queue and state: about so many means as many or more. By default
                everything is counted, and a million messages take about 0.1 s.
        """
        return self._operator.queues(cap=cap)

    def pause(self, queue: str) -> bool:
        """Let consumers claim nothing more from a queue, within 1.3 s. Returns False if there is no such queue."""
        return self._operator.set_paused(queue, paused=True)

    def resume(self, queue: str) -> bool:
        """End a pause, within 1.3 s. Returns False if there is no such queue."""
        return self._operator.set_paused(queue, paused=False)

    def purge(self, queue: str) -> int:
        """Delete the waiting messages of a queue, scheduled ones included. Returns how many. Claimed messages stay."""
        return self._queues.purge(queue)

    # -- tasks

    def state(self, task_id: str) -> TaskStatus:
        """Where a task is. One statement, by three indexes; its cost does not grow with the tables.

        With `connect`, results in another database than the broker's are not seen.
        """
        return TaskStatusStore(self._sessions).of(task_id, results_elsewhere(self._app))

    def messages_of(self, task_id: str) -> list[TaskMessage]:
        """Where the messages of a task are, the oldest first. Those of stock producers have no id to find them by."""
        return self._operator.messages_of(task_id)

    def cancel(self, task_id: str) -> int:
        """Revoke the waiting messages of a task: the worker that claims one discards it and stores REVOKED.

        Returns:
            How many there were. 0 means that a worker has claimed it already (`app.control.revoke` is for that), or
            that there is no such task.
        """
        return self._operator.cancel(task_id)

    def blocked_tasks(self) -> list[BlockedTask]:
        """The task names that no worker runs."""
        return self._operator.blocked_tasks()

    def block_task(self, task: str) -> None:
        """Let no worker begin a task of this name: within 1.3 s workers dead-letter its messages.

        Raises:
            ValueError: the name is empty.
        """
        if not task:
            raise ValueError("the name of the task is empty")
        self._operator.block(task)

    def unblock_task(self, task: str) -> bool:
        """End that. Its dead letters stay. Returns False if the name was not blocked."""
        return self._operator.unblock(task)

    # -- consumers

    def consumers(self) -> list[ConsumerOverview]:
        """The processes that consume, and those that are gone and have left claims behind."""
        return self._operator.consumers()

    def release(self, consumer: int) -> Released:
        """Make what a consumer has claimed ready for others. If it lives, the tasks that it runs run twice.

        For an id that no consumer has, `Released.unknown` is true.
        """
        session = self._sessions.connect()
        try:
            return release_consumer(session, consumer)
        finally:
            session.close()

    # -- dead letters

    def dead_letters(
        self,
        which: DeadLetterFilter | None = None,
        *,
        limit: int | None = None,
    ) -> list[DeadLetter]:
        """Dead letters that meet the conditions, the oldest first, at most `limit`. Without their payloads."""
        return self._dead_letters.find(which or DeadLetterFilter(), limit)

    def dead_letter_payload(self, dead_letter: int) -> str | None:
        """What the producer sent, as JSON; None if there is no such dead letter."""
        return self._dead_letters.payload(dead_letter)

    def requeue(self, ids: Sequence[int]) -> Requeued:
        """Put dead letters back into their queues, as new messages without failures."""
        return self._dead_letters.requeue(ids)

    def purge_dead_letters(self, ids: Sequence[int]) -> int:
        """Delete dead letters. Returns how many there were."""
        return self._dead_letters.delete(ids)


def connect(url: str, *, connect_timeout: int = 5, statement_timeout: str = STATEMENT_TIMEOUT) -> Operations:
    """The broker at a PostgreSQL URL.

    Args:
        url: with or without a driver (`postgresql+asyncpg://`).
        connect_timeout: in seconds, 1 or more.
        statement_timeout: as PostgreSQL writes it (`30s`, `500ms`).

    Raises:
        OptionError: a timeout has a wrong value.
        ValueError: libpq cannot read the URL. The message does not quote it.
    """
    options = Options.of({"connect_timeout": connect_timeout, "statement_timeout": statement_timeout})
    settings = {"statement_timeout": options.statement_timeout}
    return Operations(pool.acquire(parsed(url, "broker"), settings, options.connect_timeout or connect_timeout))


def of(app: Any) -> Operations:
    """The broker of a Celery application, on the connections that its publishers share.

    Raises:
        TypeError: the application's broker is not this package's.
    """
    transport = app.connection_for_write().transport
    if not isinstance(transport, Transport):
        raise TypeError(f"the application's broker is {type(transport).__module__}, not celery_postgres")
    return Operations(transport.sessions, app)


def read_model(app: Any) -> ReadModel:
    """What the console shows, for the application: see `celery_postgres.readmodel`.

    Results in another database are read there; those of another backend than this package's are not seen.

    Raises:
        TypeError: the application's broker is not this package's.
    """
    with of(app) as broker:
        dsn = broker._sessions.dsn
    backend = app.backend
    elsewhere = isinstance(backend, DatabaseBackend) and not backend.shares_broker()
    return ReadModel(dsn, backend.dsn if elsewhere else None, app)


__all__ = [
    "WORKER_FUNCTIONS",
    "WORKER_SEQUENCES",
    "WORKER_TABLES",
    "Action",
    "ActionStore",
    "BeatRun",
    "BlockedTask",
    "ConsumerOverview",
    "DeadLetter",
    "DeadLetterCount",
    "DeadLetterFilter",
    "KeyCount",
    "KeyCounts",
    "KeyDepth",
    "KeyStatus",
    "Limit",
    "LostConsumer",
    "MonitorStore",
    "Operations",
    "QueueDepth",
    "QueueOverview",
    "ReadModel",
    "Released",
    "Requeued",
    "TaskMessage",
    "TaskPhase",
    "TaskState",
    "TaskStatus",
    "connect",
    "is_usable",
    "key_status",
    "load_result",
    "monitor",
    "of",
    "overdue_s",
    "read_model",
    "task_states",
    "usual_s",
    "waiting_by_tenant",
    "watching",
]
