"""Queues and bindings, which all processes share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from celery_postgres.database.store import Runner, Store, in_transaction

logger = logging.getLogger(__name__)

#: The queues that this process has warned of.
_stay_fair: set[str] = set()


def _warn_of_fair(queue: str) -> None:
    if queue in _stay_fair:
        return
    _stay_fair.add(queue)
    logger.warning(
        "The queue %s stays fair, though it is declared with x-fair False: it has limits or ordered messages, which "
        "fair queues alone keep. Remove its limits (python -m celery_postgres limits remove) and let its ordered "
        "messages run, or declare it without x-fair.",
        queue,
    )


@dataclass(frozen=True, slots=True)
class Queue:
    """A row of `kombu_queue`: what its latest declaration asked for."""

    id: int
    auto_delete: bool
    expires_ms: int | None
    message_ttl_ms: int | None
    fair: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """A queue that an exchange routes to. `pattern` is a regular expression, for a topic exchange."""

    routing_key: str
    pattern: str | None
    queue: str


class QueueStore(Store):
    """Declare, count, bind, purge and drop queues."""

    #: A million messages take 3 s in one statement, and a statement may take 30.
    BATCH = 100_000

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._runner = runner

    # -- queues

    def find(self, queue: str) -> Queue | None:
        for row in self._run("find_queue", queue=queue):
            return Queue(*row)
        return None

    def declare(
        self,
        queue: str,
        *,
        auto_delete: bool,
        expires_ms: int | None,
        message_ttl_ms: int | None,
        fair: bool | None = None,
    ) -> int:
        """The queue's id; creates the queue or changes it only if needed.

        So a publisher whose queue exists needs no right to change queues, and leaves no dead rows at each start. One
        without that right leaves it to a consumer to make the queue fair, or no longer fair. A queue with limits or
        ordered messages stays fair, with a warning: an operator who has set a limit relies on it.

        Args:
            fair: None leaves that as it is.
        """
        lasting = not auto_delete and expires_ms is None  # then no statement reads when it was last used
        asked: dict[str, Any] = {
            "auto_delete": auto_delete,
            "expires_ms": expires_ms,
            "message_ttl_ms": message_ttl_ms,
        }
        while True:  # a queue may come and go between two statements
            found = self.find(queue)
            if found is None:
                for (queue_id,) in self._run("make_queue", queue=queue, fair=fair, **asked):
                    return int(queue_id)
                continue
            same = lasting and replace(found, **asked) == found
            if same and (fair in (None, found.fair) or not self._may_change()):
                return found.id
            if not same or fair:
                for (queue_id,) in self._run("change_queue", queue=queue, fair=fair, **asked):
                    found = replace(found, id=int(queue_id))
                    break
                else:
                    continue
            if fair is False and found.fair and self._stays_fair(queue, found.id):
                _warn_of_fair(queue)
            return found.id

    def _stays_fair(self, queue: str, queue_id: int) -> bool:
        """Let a queue be fair no longer. Returns whether it stays fair, because it has limits or ordered messages.

        Looked at a second time under the lock of the row, by a statement of its own: one that had waited for the lock
        would not see the limit whose transaction it has waited for. At first without it: so a worker that starts beside
        limits locks nothing.
        """
        if self._keeps_fair(queue_id):
            return True
        with in_transaction(self._runner) as session:
            within = QueueStore(session)
            if session.run("lock_queue", queue=queue) != [(queue_id, True)]:
                return False  # it is gone, or no longer fair
            if within._keeps_fair(queue_id):
                return True
            session.run("set_fair", queue=queue_id, fair=False)
        return False

    def _keeps_fair(self, queue_id: int) -> bool:
        return any(keeps for (keeps,) in self._run("keeps_fair", queue_id=queue_id))

    def _may_change(self) -> bool:
        ((may,),) = self._run("may_change_queues")
        return bool(may)

    def count_ready(self, queue: str) -> int | None:
        """The messages that a consumer could claim now; None if there is no such queue."""
        for (count,) in self._run("count_ready", queue=queue):
            return int(count)
        return None

    def purge(self, queue: str) -> int:
        """Delete the waiting messages, due or not, in several transactions. Claimed messages stay. Returns how many."""
        count, more = 0, True
        while more:
            ((gone, more),) = self._run("purge_queue", queue=queue, limit=self.BATCH)
            count += int(gone)
        return count

    def drop(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> None:
        """Delete a queue, and then its messages. `clear_orphans` deletes what a crash or a late publish leaves."""
        self._clear(self._run("drop_queue", queue=queue, if_unused=if_unused, if_empty=if_empty))

    def drop_unused(self, queue_ids: list[int]) -> None:
        """Delete those of some queues that are auto-delete and have no consumer left, and then their messages."""
        if queue_ids:
            self._clear(self._run("drop_unused_queues", queue_ids=queue_ids))

    def drop_if_expired(self, queue: str) -> None:
        """Delete one queue, if it is past its expiry, and then its messages."""
        self._clear(self._run("drop_if_abandoned", queue=queue))

    def drop_expired(self) -> None:
        """Delete all queues that are past their expiry, and abandoned auto-delete queues, and then their messages."""
        self._clear(self._run("drop_abandoned_queues"))

    def clear_orphans(self) -> None:
        """Delete the messages of all queues that no longer exist."""
        self._clear(self._run("orphaned_queues"))

    def _clear(self, queues: list[tuple[int]]) -> None:
        for (queue_id,) in queues:
            more = True
            while more:
                ((_, more),) = self._run("drop_messages", queue_id=queue_id, limit=self.BATCH)

    # -- bindings

    def bind(self, queue: str, exchange: str, *, kind: str, routing_key: str, pattern: str | None) -> None:
        """Bind a queue to an exchange, if the queue exists."""
        found = self._run("find_binding", queue=queue, exchange=exchange, routing_key=routing_key)
        if found == [(kind, pattern)]:
            return
        self._run(
            "change_binding" if found else "bind",
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            type=kind,
            pattern=pattern,
        )

    def unbind(self, queue: str, exchange: str, routing_key: str) -> None:
        self._run("unbind", queue=queue, exchange=exchange, routing_key=routing_key)

    def bindings(self, exchange: str) -> list[Binding]:
        return [Binding(*row) for row in self._run("bindings", exchange=exchange)]

    def drop_exchange(self, exchange: str) -> None:
        """Delete all bindings of an exchange."""
        self._run("drop_exchange", exchange=exchange)

    def routes(self, exchange: str, routing_key: str) -> Iterator[str]:
        """The queues that receive a message with this routing key."""
        for (queue,) in self._run("routes", exchange=exchange, routing_key=routing_key):
            yield queue
