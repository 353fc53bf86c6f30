"""Which processes consume, what they consume, and which of them live."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2

from celery_postgres.database.store import Store


@dataclass(frozen=True, slots=True)
class ServerSession:
    """The database's side of a connection.

    Attributes:
        pid: the server process.
        database: the database's oid; one that was restored has another.
    """

    pid: int
    database: int


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock by which the session of a consumer shows that it lives.

    Attributes:
        pid: the server process of the session; None behind a transaction pooler, where no session is a consumer's own.
        key: what is locked; None as above.
        direct: the server has the process' own socket at the other end, and no proxy's.
    """

    pid: int | None
    key: int | None
    direct: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """A consumer whose row was removed; a worker of this release with what it reported."""

    consumer: int
    hostname: str | None
    pid: int | None
    started_at: datetime | None
    name: str | None = None
    pool: str | None = None
    slots: int | None = None
    app_version: str | None = None
    queues: list[str] | None = None
    running: Any = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker reports of itself with each heartbeat; of another consumer, nothing.

    Attributes:
        name: Celery's name of the worker.
        pool: its kind.
        slots: how many tasks run in it at once.
        app_version: the release of the application that it runs, if it was given one.
        busy: how many tasks run in it now.
        running: the ones that run the longest, as JSON; None if none runs.
        draining: it ends when they have ended.
    """

    name: str | None = None
    pool: str | None = None
    slots: int | None = None
    app_version: str | None = None
    busy: int | None = None
    running: str | None = None
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Own:
    """What a heartbeat returns about its own consumer."""

    counter: int
    paused_queues: frozenset[int]
    blocked_tasks: frozenset[str]
    messages_wait: bool
    fair_queues: frozenset[int]
    draining: bool


@dataclass(frozen=True, slots=True)
class Other:
    """What a heartbeat returns about another consumer.

    Attributes:
        has_session: it has a session of its own, whose lock shows that it lives.
        direct: the server has its own socket at the other end.
    """

    consumer: int
    counter: int
    has_session: bool
    direct: bool


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat returns. `own` is None if the row of its consumer is gone."""

    own: Own | None
    others: list[Other]


@dataclass(frozen=True, slots=True)
class Gone:
    """A consumer that no longer exists, and how many messages are still claimed by it."""

    consumer: int
    claims: int


@dataclass(frozen=True, slots=True)
class EndedSubscription:
    """A queue that this process has ceased to consume."""

    queue: str
    auto_delete: bool


@dataclass(frozen=True, slots=True)
class Due:
    """For which steps of the maintenance there is something to do.

    Attributes:
        queues: there are queues that are past their expiry, or auto-delete and abandoned.
        messages: there are messages whose time is over.
        throttles: there are throttles whose places are all free.
        keys: a queue that is not fair has messages with keys.
        claims: consumers that no longer exist have claimed messages.
    """

    queues: bool = True
    messages: bool = True
    throttles: bool = True
    keys: bool = True
    claims: bool = True


class ConsumerStore(Store):
    """Register consumers, raise their counters, and note what they consume."""

    def check_tables(self) -> None:
        """Ask for the tables, columns and rights that publishing and consuming need.

        Raises:
            SchemaError: some of them are missing.
        """
        self._run("look")

    # -- liveness

    def open_session(self, key: int | None) -> ServerSession:
        """Take the lock of this session, unless `key` is None."""
        ((pid, database, _),) = self._run("open_session", key=key)
        return ServerSession(pid, database)

    def register(self, consumer: int, hostname: str, pid: int, lock: Lock) -> None:
        """Add a consumer, under an id that its process has drawn."""
        self._run(
            "register_consumer",
            consumer=consumer,
            hostname=hostname,
            pid=pid,
            session_pid=lock.pid,
            session_key=lock.key,
            session_direct=lock.direct,
        )

    def beat(self, consumer: int, lock: Lock, report: Report, *, peek: bool) -> Beat:
        """Raise a consumer's counter and read those of all others.

        Args:
            report: what the consumer is and does.
            peek: also check whether a message waits for this consumer, or is due before the next heartbeat.
        """
        rows = self._run(
            "beat",
            consumer=consumer,
            session_pid=lock.pid,
            session_key=lock.key,
            session_direct=lock.direct,
            peek=peek,
            worker=report.name,
            pool=report.pool,
            slots=report.slots,
            app_version=report.app_version,
            busy=report.busy,
            running=report.running,
            draining=report.draining,
        )
        own, others = None, []
        for found, counter, has_session, direct, paused, waits, blocked, fair, draining, _ in rows:
            if found == consumer:
                own = Own(
                    counter,
                    frozenset(paused or ()),
                    frozenset(blocked or ()),
                    bool(waits),
                    frozenset(fair or ()),
                    bool(draining),
                )
            else:
                others.append(Other(found, counter, bool(has_session), bool(direct)))
        return Beat(own, others)

    def has_lost_session(self, consumer: int) -> bool:
        """Whether a consumer's row is there and no session holds its lock."""
        return any(not lives for _, lives in self._run("session_lives", consumer=consumer))

    def remove(self, consumer: int, counter: int | None = None) -> Removed | None:
        """Remove a consumer, if its counter still is `counter`. Returns what it was; None if it was not removed."""
        for row in self._run("remove_consumer", consumer=consumer, beat=counter):
            return Removed(consumer, *row)
        return None

    def note_lost(self, removed: Removed, claimed: int) -> None:
        """Keep for a week that others found a consumer dead, with how many messages it had claimed."""
        self._run(
            "note_lost_consumer",
            consumer=removed.consumer,
            hostname=removed.hostname,
            pid=removed.pid,
            started_at=removed.started_at,
            claimed=claimed,
            worker=removed.name,
            pool=removed.pool,
            slots=removed.slots,
            app_version=removed.app_version,
            queues=removed.queues,
        )

    def gone(self) -> list[Gone]:
        """The consumers that no longer exist and have left claims."""
        return [Gone(*row) for row in self._run("gone_consumers")]

    def due(self) -> Due:
        """Look for which steps of the maintenance there is something to do."""
        (row,) = self._run("what_is_due")
        return Due(*row)

    # -- subscriptions

    def subscribe(self, consumer: int, queue: str) -> tuple[int, bool] | None:
        """Note that a consumer consumes a queue.

        Returns:
            The queue's id, and whether it is fair; 0 if there is no such queue, None if there is no such consumer.
        """
        try:
            for queue_id, fair in self._run("subscribe", consumer=consumer, queue=queue):
                return int(queue_id), bool(fair)
        except psycopg2.errors.ForeignKeyViolation:
            return None
        return 0, False

    def subscriptions(self, consumer: int) -> dict[str, int]:
        """The queues that a consumer consumes, with their ids."""
        return dict(self._run("subscriptions", consumer=consumer))

    def unsubscribe(self, consumer: int, queue_id: int) -> EndedSubscription | None:
        """End a subscription; None if there was none."""
        for row in self._run("unsubscribe", consumer=consumer, queue_id=queue_id):
            return EndedSubscription(*row)
        return None

    # -- tasks

    def blocked_tasks(self) -> frozenset[str]:
        """The names of the tasks that no consumer may run."""
        return frozenset(name for name, _ in self._run("blocked_tasks"))
