"""Messages that were set aside: list, requeue and delete them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from celery_postgres.database.keys import readable_key
from celery_postgres.database.payload import decode
from celery_postgres.database.store import EVERYTHING, Store
from celery_postgres.database.task_rows import spellings, unescaped

#: Rows that one statement changes.
BATCH = 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was set aside, without its payload.

    Attributes:
        id: its number in `kombu_dead_letter`.
        died_at: when it was set aside.
        queue: where it came from; None if that queue was gone by then.
        task_id: Celery's id of the task; None if it had none that could be read.
        tenant_id: the tenant in its headers.
        failures: how often it had failed.
        reason: why it was set aside.
        bytes: the size of its payload.
        task: the task's name, where it was asked for.
    """

    id: int
    died_at: datetime
    queue: str | None
    task_id: str | None
    tenant_id: str | None
    failures: int
    reason: str
    bytes: int
    task: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters: those that meet every condition that is given.

    Attributes:
        ids: their numbers; empty for any.
        queue: the queue that they came from.
        reason: the whole of it, as `DeadLetter.reason` has it.
        older_than_s: set aside longer ago than so many seconds.
        task: the whole name of the task.
    """

    ids: Sequence[int] = ()
    queue: str | None = None
    reason: str | None = None
    older_than_s: float | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Requeued:
    """What became of dead letters that were to be requeued.

    Attributes:
        count: how many are messages again.
        unreadable: how many were not requeued because their payload is no Kombu message.
        without_queue: how many were not requeued because their queue no longer exists.
    """

    count: int = 0
    unreadable: int = 0
    without_queue: int = 0


class DeadLetterStore(Store):
    """Look into dead letters, requeue and delete them."""

    def find(self, which: DeadLetterFilter, limit: int | None = None) -> list[DeadLetter]:
        """Those that meet the conditions, the oldest first; at most `limit`."""
        rows = self._run(
            "dead_letters",
            ids=list(which.ids) or None,
            queue=which.queue,
            reason=which.reason,
            age_s=which.older_than_s,
            names=None if which.task is None else spellings(which.task),
            limit=limit or EVERYTHING,
        )
        return [DeadLetter(*row) for row in rows]

    def named(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """The same dead letters with the names of their tasks, which only their payloads have."""
        rows = self._run("dead_letter_names", ids=[one.id for one in letters])
        names = {number: unescaped(name) for number, name in rows}
        return [replace(one, task=names.get(one.id)) for one in letters]

    def payload(self, dead_letter: int) -> str | None:
        """What the producer sent; None if there is no such dead letter."""
        for (payload,) in self._run("dead_letter_payload", id=dead_letter):
            return str(payload)
        return None

    def requeue(self, ids: Sequence[int]) -> Requeued:
        """Put dead letters back into their queues as new messages, `BATCH` in each transaction.

        Ids that have no dead letter any more are passed over.
        """
        count, unreadable, without_queue = 0, 0, 0
        for start in range(0, len(ids), BATCH):
            found: dict[int, tuple[int, str, bool | None]] = {}
            for one in ids[start : start + BATCH]:
                payload = self.payload(one)
                try:
                    if payload is not None:
                        found[one] = _place(payload)
                except ValueError:
                    unreadable += 1
            ((gone, _),) = self._run(
                "requeue_dead_letters",
                ids=list(found),
                priorities=[priority for priority, _, _ in found.values()],
                flow_keys=[key for _, key, _ in found.values()],
                in_orders=[in_order for _, _, in_order in found.values()],
            )
            count += len(gone)
            if left := sorted(found.keys() - set(gone)):
                without_queue += len(self.find(DeadLetterFilter(ids=left)))
        return Requeued(count, unreadable, without_queue)

    def delete(self, ids: Sequence[int]) -> int:
        """Delete dead letters, `BATCH` in each transaction. Returns how many there were."""
        count = 0
        for start in range(0, len(ids), BATCH):
            ((deleted,),) = self._run("delete_dead_letters", ids=ids[start : start + BATCH])
            count += int(deleted)
        return count


def _place(payload: str) -> tuple[int, str, bool | None]:
    """The priority of a message, its key, and whether it is in order."""
    message = decode(payload)
    headers, value = message.get("headers") or {}, message["properties"].get("priority")
    if headers.get("flow_ordered") is True:
        return 0, readable_key(headers), True
    return min(max(int(value), 0), 9) if isinstance(value, int) else 0, readable_key(headers), None
