"""Limits of fair queues, as rows that change while everything runs; and the messages of a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from celery_postgres.database.dead_letter import FlawedMessageError
from celery_postgres.database.keys import readable_key
from celery_postgres.database.payload import decode
from celery_postgres.database.store import Store


@dataclass(frozen=True, slots=True)
class Limit:
    """Limits of a key, of each key or of a whole queue. None where there is none.

    Attributes:
        queue: the name of the queue.
        key: whose limits they are; `*` for each key, None for the whole queue.
        concurrency: how many may run in all workers together. 0 pauses the key.
        per_second: how many may start in a second, or, with `refuse`, be published.
        burst: how many may do so at once after a pause.
        refuse: what is too much is refused at publish; otherwise it waits.
        weight: how many turns the key has for each one of a key of weight 1.
        changed_at: when the row was changed last.
        key_hash: what metrics call the key, which they do not show.
        running: messages of the key that consumers have claimed.
        waiting: its ready messages.
        opens_in_s: seconds until the rate allows another message; None if it allows one now, and for `*`.
        paused: nothing starts, because the concurrency is 0, or the rate is and does not refuse.
    """

    queue: str
    key: str | None
    concurrency: int | None
    per_second: float | None
    burst: int
    refuse: bool
    weight: int | None
    changed_at: datetime
    key_hash: str | None
    running: int
    waiting: int
    opens_in_s: float | None
    paused: bool


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """The messages of a key by state."""

    ready: int
    scheduled: int
    running: int


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What holds for a key in a fair queue, by its own row or that of each key; None where there is no limit.

    Attributes:
        queue: the name of the queue.
        concurrency, per_second, burst, refuse: as of `Limit`.
        waiting: ready messages, up to the cap of the question.
        running: claimed ones, up to the same.
        opens_in_s: seconds until the rate allows another message; None if it allows one now.
    """

    queue: str
    concurrency: int | None
    per_second: float | None
    burst: int | None
    refuse: bool | None
    waiting: int
    running: int
    opens_in_s: float | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that a rate limit refuses.

    Attributes:
        number: which one of those that were asked for, from 0.
        retry_in_s: seconds after which all of them would be admitted; None if that is not known.
        of_queue: the rate is that of the whole queue, and not of the message's key.
    """

    number: int
    retry_in_s: float | None
    of_queue: bool


class LimitStore(Store):
    """Read and change limits."""

    #: Rows that one statement changes.
    BATCH = 1000

    def lock_queue(self, queue: str) -> tuple[int, bool] | None:
        """Within a transaction: change the limits of this queue alone. Returns its id, and whether it is fair."""
        for queue_id, fair in self._run("lock_queue", queue=queue):
            return int(queue_id), bool(fair)
        return None

    def set(
        self,
        queue_id: int,
        key: str | None,
        *,
        concurrency: int | None,
        per_second: float | None,
        burst: int | None,
        refuse: bool | None,
        weight: int | None,
    ) -> None:
        """Set limits; what is None stays as it is."""
        self._run(
            "set_limit",
            queue=queue_id,
            key=key or "",
            max_running=concurrency,
            per_second=per_second,
            burst=burst,
            refuse=refuse,
            weight=weight,
        )
        self._run("note_refusals", queue=queue_id)

    def remove(self, queue_id: int, key: str | None) -> bool:
        """Remove the limits of a key, of each key or of the whole queue. Returns whether there were any."""
        removed = bool(self._run("remove_limit", queue=queue_id, key=key or ""))
        self._run("note_refusals", queue=queue_id)
        return removed

    def limits(self, queue: str | None = None, *, key: str | None = None, cap: int | None = None) -> list[Limit]:
        """The limits of all queues, or of one, or of a key."""
        return [_limit(*row) for row in self._run("limits", queue=queue, key=key, running_cap=cap, cap=cap)]

    def status(self, queues: Sequence[str], key: str, *, cap: int) -> list[KeyStatus]:
        """What holds for a key in those of these queues that are fair, and what of it waits and runs."""
        return [KeyStatus(*row) for row in self._run("key_status", queues=list(queues), key=key, cap=cap)]

    def counts_running(self, queue: str) -> bool | None:
        """Whether a limit of this queue counts what runs (one of 0 does not); None if the queue has no limits."""
        ((counts,),) = self._run("counts_running", queue=queue)
        return None if counts is None else bool(counts)

    def that_count_running(self, queues: Sequence[int]) -> dict[int, str]:
        """Those of these queues that have a limit which counts what runs, with their names."""
        return dict(self._run("queues_that_count_running", queues=list(queues)))

    def drop_idle_throttles(self) -> None:
        """Remove the rows of throttles whose places are all free."""
        count = self.BATCH
        while count == self.BATCH:
            ((count,),) = self._run("drop_idle_throttles", limit=self.BATCH)

    # -- publishing

    def admit(
        self, queues: Mapping[str, int], messages: Sequence[tuple[str, str]], *, name: str = "admit"
    ) -> Refusal | None:
        """Take the places of messages, each a queue and a key, in the limits that refuse: of all of them, or of none.

        Args:
            queues: the ids of the queues that refuse; others admit everything.
            name: the statement; `admit_within` in the transaction that publishes them.
        """
        asked = [number for number, (queue, _) in enumerate(messages) if queue in queues]
        if not asked:
            return None
        ((refused, opens_in, of_queue, *_),) = self._run(
            name,
            queues=[queues[messages[number][0]] for number in asked],
            keys=[messages[number][1] for number in asked],
        )
        return None if refused is None else Refusal(asked[refused - 1], opens_in, bool(of_queue))

    def that_refuse(self, queues: Sequence[str]) -> dict[str, int]:
        """Those of these queues that have a limit which refuses, with their ids."""
        return dict(self._run("queues_that_refuse", queues=list(queues)))

    def that_are(self, queues: Sequence[str], *, fair: bool) -> list[str]:
        """Those of these queues that exist and are fair, or are not."""
        return [name for (name,) in self._run("queues_by_fairness", queues=list(queues), fair=fair)]

    # -- the messages of a key

    def counts(self, queue_id: int, key: str) -> KeyCounts:
        """What waits and runs of a key."""
        return KeyCounts(*self._run("counts_of_key", queue=queue_id, key=key)[0])

    def purge(self, queue_id: int, key: str) -> int:
        """Delete the waiting messages of a key, scheduled ones included. Returns how many."""
        count, more = 0, True
        while more:
            ((gone, more),) = self._run("purge_key", queue=queue_id, key=key, limit=self.BATCH)
            count += int(gone)
        return count

    # -- fair or not

    def set_fair(self, queue_id: int, *, fair: bool) -> None:
        """From now on publishers give messages keys, or do not."""
        self._run("set_fair", queue=queue_id, fair=fair)

    def any_in_order(self, queue_id: int) -> bool:
        """Whether a message of this queue waits or runs in the order of its key."""
        ((found,),) = self._run("any_in_order", queue=queue_id)
        return bool(found)

    def give_keys(self, queue_id: int) -> int:
        """Give each message of a fair queue that has no key its key, in batches. Returns how many had none."""
        count = after = 0
        while rows := self._run("without_key", queue=queue_id, after=after, limit=self.BATCH):
            after = rows[-1][0]
            ((changed,),) = self._run(
                "give_keys",
                queue=queue_id,
                ids=[number for number, *_ in rows],
                keys=[_key(tenant or "", payload) for _, tenant, payload in rows],
            )
            count += int(changed)
        return count

    def clear_unfair(self) -> None:
        """Take the keys from the messages of all queues that are no longer fair, which nothing claims with keys."""
        for (queue_id,) in self._run("keyed_though_unfair"):
            self.take_keys(queue_id)

    def take_keys(self, queue_id: int) -> int:
        """Take the keys from all messages of a queue that is not fair, in batches. Returns how many had one."""
        count, more = 0, True
        while more:
            ((changed, more),) = self._run("take_keys", queue=queue_id, limit=self.BATCH)
            count += int(changed)
        return count


def _limit(queue: str, key: str, *row: object) -> Limit:
    columns = (*row, _paused(*row[:4]))
    return Limit(queue, key or None, *columns)  # type: ignore[arg-type]


def _paused(concurrency: object, per_second: object, burst: object, refuse: object) -> bool:
    return concurrency == 0 or (per_second == 0 and not refuse)


def _key(tenant: str, payload: str | None) -> str:
    """The key of a stored message; its payload is given if a key may be in it."""
    if payload is None:
        return tenant
    try:
        return readable_key(decode(payload).get("headers") or {})
    except FlawedMessageError:
        return tenant
