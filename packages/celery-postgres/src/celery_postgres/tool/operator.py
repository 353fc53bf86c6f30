"""The commands of the queue tool, and what they print."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from celery_postgres.database.advisory_locks import LockHeldError
from celery_postgres.database.dead_letter_store import DeadLetter, DeadLetterFilter, DeadLetterStore
from celery_postgres.database.operator_store import (
    OperatorStore,
    TakenByStock,
    TaskMessage,
    release_consumer,
)
from celery_postgres.database.payload import decode
from celery_postgres.database.queue_store import QueueStore
from celery_postgres.database.session import Session
from celery_postgres.errors import CeleryPostgresError
from celery_postgres.readmodel import ReadModel
from celery_postgres.tool.display import Display
from celery_postgres.tool.mover import MoveError, Mover
from celery_postgres.tool.views import is_known

_TAKEN = "message of stock consumers"


class OperatorError(CeleryPostgresError):
    """Why a command cannot be carried out, in one line."""


class Operator:
    """The commands. Each returns the exit status.

    Args:
        session: to the broker's database.
        display: prints what is found and done.
        app: the Celery application, if it is known: its tasks and its schedule.
    """

    def __init__(self, session: Session, display: Display, app: Any = None) -> None:
        self.session = session
        self.store = OperatorStore(session)
        self.display = display
        self.app = app
        self._queues = QueueStore(session)
        self._dead_letters = DeadLetterStore(session)

    @cached_property
    def model(self) -> ReadModel:
        """The console's read model, on connections of its own."""
        return ReadModel(self.session.dsn, app=self.app)

    def close(self) -> None:
        """Close the connections."""
        self.session.close()
        if "model" in self.__dict__:
            self.model.close()

    # -- queues

    def pause(self, given: argparse.Namespace) -> int:
        """Pause a queue: consumers claim nothing more from it. Publishing goes on."""
        return self._set_paused(given.queue, paused=True)

    def resume(self, given: argparse.Namespace) -> int:
        """Resume a paused queue."""
        return self._set_paused(given.queue, paused=False)

    def _set_paused(self, queue: str, *, paused: bool) -> int:
        if not self.store.set_paused(queue, paused=paused):
            raise OperatorError(f"there is no queue {queue!r}")
        state = "paused" if paused else "resumed"
        self.display.say(f"{queue} is {state}; consumers follow within 1.3 s", queue=queue, paused=paused)
        return 0

    def purge(self, given: argparse.Namespace) -> int:
        """Delete the waiting messages of a queue, scheduled ones included. Claimed messages stay."""
        if self._queues.find(given.queue) is None:
            raise OperatorError(f"there is no queue {given.queue!r}")
        noun = f"message of {given.queue}"
        if not given.yes:
            waiting = sum(row.ready + row.scheduled for row in self.store.queues(given.queue))
            return self.display.would("delete", waiting, noun)
        return self.display.did("deleted", self._queues.purge(given.queue), noun)

    def move(self, given: argparse.Namespace) -> int:
        """Move the waiting messages of a queue to another database, whose URL is in the variable that --to names. It
        may be killed and run again: nothing is lost, and nothing is copied twice."""
        target = Session(given.to, {"statement_timeout": "10min"})
        try:
            mover = Mover(self.session, target, given.queue)
            noun = f"message of {given.queue}"
            if not given.yes:
                return self.display.would("move", mover.waiting(), noun)
            moved = mover.run()
        except (MoveError, LockHeldError) as error:
            raise OperatorError(str(error)) from None
        finally:
            target.close()
        parts = f"; {moved.parts} parts of chords stay until they have run" if moved.parts else ""
        claimed = (
            f"; {moved.claimed} claimed by consumers: run this again when they have ended" if moved.claimed else ""
        )
        return self.display.did("moved", moved.count, noun, parts + claimed, parts=moved.parts, claimed=moved.claimed)

    # -- tasks

    def cancel(self, given: argparse.Namespace) -> int:
        """Revoke a waiting task. The worker that claims it discards it, at once unless its queue is paused, and stores
        REVOKED as its result."""
        found = self.store.messages_of(given.task_id)
        waiting = [message for message in found if message.waiting]
        if not waiting:
            why = self._why_not_waiting(found[0]) if found else "those of stock producers cannot be found by task"
            raise OperatorError(f"task {given.task_id} has no waiting message: {why}")
        noun = f"message of task {given.task_id}"
        if not given.yes:
            return self.display.would("revoke", len(waiting), noun)
        count = self.store.cancel(given.task_id)
        stalled = {one.queue: one.paused for one in waiting if one.paused or not one.consumed}
        suffix = "".join(
            f"; {queue} {f'is paused (resume it with `resume {queue}`)' if paused else 'has no consumer'}: "
            "until a consumer discards the message, the task has no result"
            for queue, paused in stalled.items()
        )
        return self.display.did("revoked", count, noun, suffix, stalled=list(stalled))

    def _why_not_waiting(self, message: TaskMessage) -> str:
        if message.consumer is None:
            return "a stock consumer has taken it"
        if self.store.has_crashed(message.consumer):
            return f"consumer {message.consumer} claimed it and is gone; run `release {message.consumer}` first"
        return f"consumer {message.consumer} has claimed it; use `celery control revoke`"

    def stop(self, given: argparse.Namespace) -> int:
        """Block a task: no worker begins a task of this name. Workers dead-letter its messages until `allow`. Running
        tasks and other tasks of the queue go on."""
        if not given.task:
            raise OperatorError("the name of the task is empty")
        known = given.task in getattr(self.app, "tasks", ()) or is_known(self, given.task)
        self.store.block(given.task)
        warning = "" if known else "; but nothing here has had this name yet: is it the task's whole name?"
        self.display.say(
            f"{given.task} is blocked; consumers follow within 1.3 s and dead-letter its messages{warning}",
            task=given.task,
            blocked=True,
            known=known,
        )
        return 0

    def allow(self, given: argparse.Namespace) -> int:
        """Unblock a task. `dead requeue` brings back its dead letters."""
        if not self.store.unblock(given.task):
            raise OperatorError(f"{given.task!r} is not blocked")
        self.display.say(
            f"{given.task} is no longer blocked; consumers follow within 1.3 s. Then bring back its dead letters with "
            f"`dead requeue --reason 'stopped: {given.task}'`",
            task=given.task,
            blocked=False,
        )
        return 0

    # -- consumers

    def release(self, given: argparse.Namespace) -> int:
        """Take a consumer's claimed messages and make them ready for others, at once: for a consumer that is gone,
        hangs or has lost its network. If it is alive, it notices with its next heartbeat and starts over; the tasks
        that it was running run twice."""
        consumer = given.consumer
        claimed = {one.id: one.claimed for one in self.store.consumers()}
        if consumer not in claimed:
            raise OperatorError(f"there is no consumer {consumer}")
        noun = f"message of consumer {consumer}"
        if not given.yes:
            return self.display.would("release", claimed[consumer], noun)
        released = release_consumer(self.session, consumer)
        crashed = "; it crashed, so each counts one failure more" if released.count and released.crashed else ""
        return self.display.did("released", released.count, noun, crashed, crashed=released.crashed)

    # -- dead letters

    def dead_list(self, given: argparse.Namespace) -> int:
        """List dead letters, the oldest first."""
        found = self._dead_letters.find(_filter(given), given.limit)
        self.display.show(DeadLetter, self._dead_letters.named(found))
        return 0

    def dead_show(self, given: argparse.Namespace) -> int:
        """Show one dead letter; its payload only with --payload."""
        found = self._dead_letters.find(DeadLetterFilter(ids=[given.id]))
        if not found:
            raise OperatorError(f"there is no dead letter {given.id}")
        record = asdict(self._dead_letters.named(found)[0])
        if given.payload:
            payload = self._dead_letters.payload(given.id)
            if payload is not None:  # else somebody has just requeued or deleted it
                record |= {"payload": payload, "body": _body(payload)}
        self.display.show_one(record)
        return 0

    def dead_requeue(self, given: argparse.Namespace) -> int:
        """Put dead letters back into their queues. Give ids, a condition or --all."""
        ids, missing = self._chosen(given)
        if not given.yes:
            return self.display.would("requeue", len(ids), "dead letter", _not_found(missing), missing=missing)
        done = self._dead_letters.requeue(ids)
        left = done.unreadable + done.without_queue
        status = self._report("requeued", given, done.count, len(ids) - done.count - left, missing)
        if left:
            causes = []
            if done.unreadable:
                causes.append(f"{done.unreadable} unreadable")
            if done.without_queue:
                causes.append(f"{done.without_queue} whose queue no longer exists")
            raise OperatorError(f"{left} not requeued: {', '.join(causes)}")
        return status

    def dead_purge(self, given: argparse.Namespace) -> int:
        """Delete dead letters. Give ids, a condition or --all."""
        ids, missing = self._chosen(given)
        if not given.yes:
            return self.display.would("delete", len(ids), "dead letter", _not_found(missing), missing=missing)
        count = self._dead_letters.delete(ids)
        return self._report("deleted", given, count, len(ids) - count, missing)

    def _chosen(self, given: argparse.Namespace) -> tuple[list[int], list[int]]:
        """The ids of the chosen dead letters, and the ids that were given and do not exist."""
        if not (given.ids or _filter(given) != DeadLetterFilter(given.ids) or given.all):
            raise OperatorError("which dead letters? give ids, --queue, --task, --reason, --older-than or --all")
        ids = [letter.id for letter in self._dead_letters.find(_filter(given))]
        missing = sorted(set(given.ids) - set(ids))
        if missing and not ids:
            raise OperatorError(f"nothing to do{_not_found(missing)}")
        return ids, missing

    def _report(self, verb: str, given: argparse.Namespace, count: int, others: int, missing: list[int]) -> int:
        """Report what was done with dead letters. Returns 1 if ids were given and nothing was done.

        Args:
            others: how many another operator requeued or deleted since they were listed.
        """
        elsewhere = f"; another operator was faster with {others}" if others else ""
        self.display.did(verb, count, "dead letter", elsewhere + _not_found(missing), others=others, missing=missing)
        return 1 if given.ids and not count else 0

    # -- stock Kombu

    def taken(self, given: argparse.Namespace) -> int:
        """Count the messages that stock Kombu consumers have taken, by default those of a day and older: stock never
        deletes them. With --delete, delete them."""
        rows = self.store.taken_by_stock(given.older_than)
        if not given.delete:
            self.display.show(TakenByStock, rows)
            return 0
        if not given.yes:
            return self.display.would("delete", sum(row.taken_by_stock for row in rows), _TAKEN)
        return self.display.did("deleted", self.store.delete_taken_by_stock(given.older_than), _TAKEN)


def _filter(given: argparse.Namespace) -> DeadLetterFilter:
    return DeadLetterFilter(given.ids, given.queue, given.reason, given.older_than, given.task)


def _not_found(ids: Sequence[int]) -> str:
    return f"; not found: {', '.join(map(str, ids))}" if ids else ""


def _body(payload: str) -> str | None:
    """What the producer sent, if it is text."""
    try:
        content = decode(payload)
        body = content.get("body")
        if content["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(str(body)).decode()
    except (ValueError, TypeError):
        return None
    return body if isinstance(body, str) else None
