"""Moving the waiting messages of a queue to another database, in steps that may end anywhere and be taken up again.

A batch is set aside in the source, in a queue that nothing consumes; copied to the target, in one commit with a record
of its ids; and deleted from the source. If the process ends between the last two, the record tells the next one what
the target has, whatever became of it there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass

from celery_postgres.database.dead_letter import FlawedMessageError
from celery_postgres.database.envelope import Envelope
from celery_postgres.database.identity import same_tables
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.database.moving_store import MovingStore, Record
from celery_postgres.database.notification_probe import hears
from celery_postgres.database.operator_store import OperatorStore
from celery_postgres.database.payload import decode
from celery_postgres.database.publish_store import PublishStore
from celery_postgres.database.queue_store import Queue, QueueStore
from celery_postgres.database.session import Session
from celery_postgres.errors import CeleryPostgresError

#: What one commit moves at most: messages, and bytes of their payloads.
BATCH, BATCH_BYTES = 500, 16 << 20
_PREFIX = "celery_postgres.moving."


class MoveError(CeleryPostgresError):
    """Why a queue cannot be moved, in one line."""


@dataclass(slots=True)
class Moved:
    """What a move has done.

    Attributes:
        count: messages that are in the target now.
        parts: messages that stay, because they are parts of chords, which are counted in their database.
        claimed: messages that consumers of the source have claimed.
    """

    count: int = 0
    parts: int = 0
    claimed: int = 0


class Mover:
    """Moves one queue."""

    def __init__(self, source: Session, target: Session, queue: str) -> None:
        """
        Raises:
            MoveError: the two are one database, the queue does not exist, or a session is a transaction pooler's.
        """
        self._source, self._target, self._queue = source, target, queue
        self._from, self._to = MovingStore(source), MovingStore(target)
        for session in (source, target):
            if not hears(session, session.dsn, lambda dsn=session.dsn: Session(dsn)):  # type: ignore[misc]
                raise MoveError("a move needs sessions of its own: use the servers' own addresses, and no pooler's")
        if same_tables(source, target):
            raise MoveError("the queue is in this database already: --to leads to the same one")
        self._prefix = f"{_PREFIX}{hashlib.blake2b(queue.encode(), digest_size=8).hexdigest()}."
        self._unfinished = self._from.moves(self._prefix)
        found = QueueStore(source).find(queue)
        if found is None and not self._unfinished:
            raise MoveError(f"there is no queue {queue!r}")
        self._found = found or Queue(0, auto_delete=False, expires_ms=None, message_ttl_ms=None)

    def waiting(self) -> int:
        """How many messages wait to be moved."""
        names = [self._queue, *self._unfinished]
        return sum(row.ready + row.scheduled for name in names for row in OperatorStore(self._source).queues(name))

    def run(self) -> Moved:
        """Move everything that waits.

        Raises:
            MoveError: the move to another database is unfinished, or another process goes on with this one.
            LockHeldError: another process moves this queue.
        """
        self._source.keep_lock(f"celery_postgres.move {self._queue}")
        moved = Moved()
        into = QueueStore(self._target).declare(
            self._queue,
            auto_delete=self._found.auto_delete,
            expires_ms=self._found.expires_ms,
            message_ttl_ms=self._found.message_ttl_ms,
            fair=self._found.fair or None,
        )
        self._follow(into)
        for name in self._from.moves(self._prefix) or [self._begun()]:
            self._move(name, into, moved)
        moved.claimed = sum(row.claimed for row in OperatorStore(self._source).queues(self._queue))
        return moved

    def _follow(self, into: int) -> None:
        """Give a fair queue of the target the limits for which it has none of its own."""
        source, target = LimitStore(self._source), LimitStore(self._target)
        if not self._found.fair:
            return
        there = {limit.key for limit in target.limits(self._queue, cap=1)}
        for limit in source.limits(self._queue, cap=1):
            if limit.key not in there:
                target.set(
                    into,
                    limit.key,
                    concurrency=limit.concurrency,
                    per_second=limit.per_second,
                    burst=limit.burst,
                    refuse=limit.refuse,
                    weight=limit.weight,
                )

    def _begun(self) -> str:
        """The name of a new move. Its record is there before anything is set aside."""
        name = f"{self._prefix}{secrets.token_hex(4)} {self._queue}"[:200]
        QueueStore(self._target).declare(name, auto_delete=False, expires_ms=None, message_ttl_ms=None)
        PublishStore(self._target).publish(name, Envelope(_record([], ""), 0, None, None, None, None, "yes"))
        # Messages keep their keys there.
        QueueStore(self._source).declare(
            name, auto_delete=False, expires_ms=None, message_ttl_ms=None, fair=self._found.fair
        )
        return name

    def _move(self, name: str, into: int, moved: Moved) -> None:
        aside = QueueStore(self._source).find(name)
        record = self._to.record(name)
        assert aside is not None  # noqa: S101
        if record is None:
            if self._from.waiting(aside.id, 0, 1):
                raise MoveError(
                    "a move of this queue to another database is unfinished: finish it with the same --to as before"
                )
        else:
            self._from.delete(aside.id, json.loads(record.text)["ids"])
            record = self._move_all(record, aside.id, aside.id, into, moved)
            if self._found.id:
                self._move_all(record, self._found.id, aside.id, into, moved)
            QueueStore(self._target).drop(name)
        QueueStore(self._source).drop(name, if_empty=True)

    def _move_all(self, record: Record, queue: int, aside: int, into: int, moved: Moved) -> Record:
        """Move the messages of one queue of the source: those that wait, or those that were set aside before."""
        after = 0
        while batch := self._from.waiting(queue, after, BATCH):
            size = 0
            ids: list[int] = []
            for one in batch:
                size += one.size
                if ids and size > BATCH_BYTES:
                    break
                after = one.id
                if queue != aside and one.grouped is not None and is_chord_part(one.grouped):
                    moved.parts += 1
                else:
                    ids.append(one.id)
            if queue != aside:
                ids = self._from.set_aside(queue, aside, ids)
            if not ids:
                continue
            text = _record(ids, record.text)
            rows = self._from.aside(aside, sorted(ids))  # without those that have expired there
            if not self._to.move_in(into, record, text, rows):
                raise MoveError("another process goes on with this move")
            record = Record(record.id, text)
            self._from.delete(aside, ids)
            moved.count += len(rows)
        return record


def _record(ids: list[int], before: str) -> str:
    """The text of a record. Two of one move are never equal."""
    return json.dumps({"ids": sorted(ids), "batch": json.loads(before)["batch"] + 1 if before else 0})


def is_chord_part(payload: str) -> bool:
    """Whether the message of a payload is a part of a chord; also if it is a part of a group, and cannot be read."""
    try:
        message = decode(payload)
        if not isinstance((message.get("headers") or {}).get("group"), str):
            return False
        body = str(message.get("body"))
        if message["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body).decode()
        return bool(json.loads(body)[2].get("chord"))
    except (FlawedMessageError, ValueError, TypeError, LookupError, AttributeError):
        return True
