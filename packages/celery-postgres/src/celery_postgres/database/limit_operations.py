"""What an application does with fair queues and the limits of their keys: a part of `celery_postgres.operations`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_postgres.database import limiting
from celery_postgres.database.limit_store import KeyCounts, Limit
from celery_postgres.database.limiting import NewLimit
from celery_postgres.database.pool import Sessions
from celery_postgres.database.session import Session
from celery_postgres.errors import FlowError


class LimitOperations:
    """Change limits while everything runs; consumers and publishers follow with their next statement.

    A `key` is any text of up to 200 characters; `*` stands for each key, and None for the whole queue. Each method
    raises `FlowError`, in one line, if the queue does not exist or is not fair, or if the key is none.
    """

    _sessions: Sessions
    _app: Any

    def limits(self, queue: str | None = None, *, key: str | None = None, cap: int | None = None) -> list[Limit]:
        """All limits, or those of one queue or key, with what runs and waits of their keys.

        Args:
            cap: where counting stops, for each limit and state; everything is counted by default.
        """
        return limiting.limits(self._sessions, queue, key=key, cap=cap)

    def set_limit(
        self,
        queue: str,
        *,
        key: str | None = None,
        concurrency: int | None = None,
        per_second: float | None = None,
        burst: int | None = None,
        refuse: bool | None = None,
        weight: int | None = None,
    ) -> Limit:
        """Set limits of a key, of each key or of the whole queue. What is None stays as it is.

        Args:
            concurrency: how many may run at once, in all workers together. 0 pauses.
            per_second: how many may start in a second, or, with `refuse`, be published.
            burst: how many may do so at once after a pause; 1 if a rate is given without it.
            refuse: what is too much is refused at publish with `RateLimited`; otherwise it waits.
            weight: how many turns a key has for each one of a key of weight 1.

        Raises:
            FlowError: also if a value is out of its bounds, or if the tasks of the application acknowledge early, so
                that nothing would be counted as running.
        """
        check_acks(self._app, concurrency)
        new = NewLimit(concurrency, per_second, burst, refuse, weight)
        with self._session() as session:
            return limiting.set_limit(session, queue, key, new)

    def remove_limit(self, queue: str, *, key: str | None = None) -> bool:
        """Remove the limits of a key, of each key or of the whole queue. Returns whether there were any."""
        with self._session() as session:
            return limiting.remove_limit(session, queue, key)

    def set_fair(self, queue: str, *, fair: bool = True) -> int:
        """Make a queue fair or not, and convert its messages in batches. Returns how many messages were converted.

        Raises:
            FlowError: also if it is to be fair no longer, and has limits, or ordered messages that wait or run.
        """
        with self._session() as session:
            return limiting.set_fair(session, queue, fair=fair)

    def counts_of_key(self, queue: str, key: str) -> KeyCounts:
        """The messages of a key by state."""
        with self._session() as session:
            return limiting.counts_of_key(session, queue, key)

    def purge_key(self, queue: str, key: str) -> int:
        """Delete the waiting messages of a key, scheduled ones included. Returns how many. Claimed messages stay."""
        with self._session() as session:
            return limiting.purge_key(session, queue, key)

    def drain_key(self, queue: str, key: str, *, timeout_s: float = 60.0) -> int:
        """Pause a key, with a concurrency of 0, and wait until nothing of it runs. Its waiting messages stay.

        Returns:
            How many still run when the time is over.
        """
        with self._session() as session:
            return limiting.drain_key(session, queue, key, timeout_s)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        session = self._sessions.connect()
        try:
            yield session
        finally:
            session.close()


def check_acks(app: Any, concurrency: int | None) -> None:
    """
    Args:
        app: the Celery application; None if it is not known.
        concurrency: what is to be set.

    Raises:
        FlowError: all tasks of the application that this process knows are acknowledged before they run.
    """
    if not concurrency or app is None or app.conf.task_acks_late:
        return
    if not any(task.acks_late for name, task in app.tasks.items() if not name.startswith("celery.")):
        raise FlowError(
            "a concurrency counts what is not acknowledged, and the tasks of this application acknowledge before they "
            "run: set task_acks_late = True, or acks_late=True on the tasks of this queue"
        )
