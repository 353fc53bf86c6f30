"""The steps of moving a queue to another database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery_postgres.database.store import Store

#: The parameters of `move_in`, in the order of the columns of `messages_aside`.
_COLUMNS = (
    *("payloads", "priorities", "task_ids", "tenant_ids", "enqueued", "available", "expires"),
    *("failures", "revoked", "flow_keys", "flow_later", "in_orders"),
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A waiting message; its payload only if it is part of a group."""

    id: int
    size: int
    grouped: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """The message that says how far a move has come."""

    id: int
    text: str


class MovingStore(Store):
    """Takes messages out of the queues of one database, or puts them into those of the other."""

    def waiting(self, queue_id: int, after: int, limit: int) -> list[Waiting]:
        """The next waiting messages of a queue whose ids are greater than `after`."""
        return [Waiting(*row) for row in self._run("waiting_after", queue=queue_id, after=after, limit=limit)]

    def set_aside(self, queue_id: int, aside_id: int, ids: Sequence[int]) -> list[int]:
        """Put messages into the queue that nothing consumes. Returns the ids of those that nobody has claimed."""
        return [number for (number,) in self._run("set_aside", queue=queue_id, aside=aside_id, ids=list(ids))]

    def aside(self, aside_id: int, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """The rows of messages that were set aside, for `move_in`."""
        return self._run("messages_aside", aside=aside_id, ids=list(ids))

    def delete(self, aside_id: int, ids: Sequence[int]) -> int:
        """Delete messages that were set aside. Returns how many there were."""
        return len(self._run("delete_aside", aside=aside_id, ids=list(ids)))

    def moves(self, prefix: str) -> list[str]:
        """The names of the queues that begin with `prefix`."""
        return [name for (name,) in self._run("moves", prefix=prefix)]

    def record(self, queue: str) -> Record | None:
        """The record in this queue."""
        return next((Record(*row) for row in self._run("move_record", queue=queue)), None)

    def move_in(self, queue_id: int, record: Record, text: str, rows: Sequence[tuple[Any, ...]]) -> bool:
        """Write messages, and `text` as the new record, in one commit. Returns False if the record has changed."""
        columns = {name: [row[place] for row in rows] for place, name in enumerate(_COLUMNS)}
        ((written, _),) = self._run(
            "move_in", queue=queue_id, record_id=record.id, expected=record.text, record=text, **columns
        )
        return bool(written)
