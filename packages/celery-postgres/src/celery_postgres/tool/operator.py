"""What an operator does with queues: see what waits and what died, stop and resume, bring back or throw away."""

from __future__ import annotations

import argparse
import base64
from typing import Any

from celery_postgres.consumer.maintenance import release
from celery_postgres.database.envelope import decode
from celery_postgres.database.queue_store import QueueStore
from celery_postgres.database.session import Session
from celery_postgres.tool.display import Display

_BATCH = 1000

#: How often a message may fail is known to the application alone: what comes back by hand runs once more, whatever it
#: has behind it, and after the next worker that it kills it is a dead letter.
_NO_LIMIT = 32_767

#: Names of what `dead list` shows, in the order of the statement's columns.
_DEAD = ("id", "died_at", "queue", "task_id", "tenant_id", "failures", "reason", "bytes")


class OperatorError(Exception):
    """What cannot be done, in one line for whoever asked for it."""


class Tool:
    """The commands; each returns the exit status.

    Parameters:
        session: to the broker's database.
        display: where what is found and done is shown.
    """

    def __init__(self, session: Session, display: Display) -> None:
        self._session = session
        self._display = display

    # -- queues

    def queues(self, given: argparse.Namespace) -> int:
        """Queues with what waits in them."""
        names = ("queue", "paused", "ready", "delayed", "held", "taken", "oldest_s", "consumers")
        self._display.show(names, self._session.run("queues_overview", queue=None))
        return 0

    def pause(self, given: argparse.Namespace) -> int:
        """Let consumers take nothing more from a queue; publishing goes on."""
        return self._set_paused(given.queue, paused=True)

    def resume(self, given: argparse.Namespace) -> int:
        """End a pause."""
        return self._set_paused(given.queue, paused=False)

    def _set_paused(self, queue: str, *, paused: bool) -> int:
        if not self._session.run("set_paused", queue=queue, paused=paused):
            raise OperatorError(f"there is no queue {queue!r}")
        self._display.say(
            f"{queue} is {'paused' if paused else 'open'}; consumers follow within 1.3 s", queue=queue, paused=paused
        )
        return 0

    def purge(self, given: argparse.Namespace) -> int:
        """Delete what waits in a queue, due or not. What consumers hold stays."""
        if QueueStore(self._session).find(given.queue) is None:
            raise OperatorError(f"there is no queue {given.queue!r}")
        if not given.yes:
            found = self._session.run("queues_overview", queue=given.queue)
            waiting = sum(ready + delayed for _, _, ready, delayed, *_ in found)
            return self._display.would("delete", waiting, f"messages of {given.queue}")
        return self._display.did("deleted", QueueStore(self._session).purge(given.queue), f"messages of {given.queue}")

    def cancel(self, given: argparse.Namespace) -> int:
        """Revoke a task that waits: the worker that takes it discards it, at once unless its queue is paused, and
        whoever waits for its result hears of it."""
        found = self._session.run("find_messages", task_id=given.task_id)
        waiting = [row for row in found if row[3]]
        if not waiting:
            held = f": {self._who_holds(found[0][4])}" if found else " (stock's have no id to find)"
            raise OperatorError(f"no message of task {given.task_id} waits{held}")
        what = f"messages of task {given.task_id}"
        if not given.yes:
            return self._display.would("revoke", len(waiting), what)
        ((count, _),) = self._session.run("cancel_messages", task_id=given.task_id)
        stalled = {queue: paused for queue, paused, consumed, *_ in waiting if paused or not consumed}
        for queue, paused in stalled.items():
            why = f"is paused, so it is discarded after `resume {queue}`" if paused else "has no consumer to discard it"
            what += f"; {queue} {why}: until then whoever waits for its result goes on waiting"
        return self._display.did("revoked", count, what, stalled=list(stalled))

    def _who_holds(self, consumer: int | None) -> str:
        """What to do about a message that does not wait."""
        if consumer is None:
            return "a stock consumer has taken it"
        if self._crashed(consumer):
            return f"consumer {consumer} held it and is gone; `release {consumer}` first"
        return f"consumer {consumer} holds it, so `celery control revoke` it"

    # -- tasks by name

    def stop(self, given: argparse.Namespace) -> int:
        """Let no worker begin a task of this name: what comes up is set aside as a dead letter, until `allow`. Other
        tasks of its queue go on, and so does what runs already."""
        if not given.task:
            raise OperatorError("which task? its name is empty")
        self._session.run("stop_task", task=given.task)
        self._display.say(
            f"{given.task} is stopped; consumers follow within 1.3 s, and set aside what they would have run",
            task=given.task,
            stopped=True,
        )
        return 0

    def allow(self, given: argparse.Namespace) -> int:
        """End a stop. What was set aside comes back with `dead requeue`."""
        if not self._session.run("allow_task", task=given.task):
            raise OperatorError(f"{given.task!r} is not stopped")
        self._display.say(
            f"{given.task} may run again; consumers follow within 1.3 s, and then dead requeue "
            f"--reason 'stopped: {given.task}' brings back what was set aside",
            task=given.task,
            stopped=False,
        )
        return 0

    def stopped(self, given: argparse.Namespace) -> int:
        """Tasks that are stopped."""
        self._display.show(("task", "stopped_at"), self._session.run("stopped_tasks"))
        return 0

    # -- consumers

    def consumers(self, given: argparse.Namespace) -> int:
        """Processes that consume, and what they hold. One without a hostname is gone, and left what it held."""
        names = ("id", "hostname", "pid", "started_at", "queues", "held")
        self._display.show(names, self._session.run("consumers_overview") + self._gone())
        return 0

    def release(self, given: argparse.Namespace) -> int:
        """Make what a consumer holds ready for others, at once: one that is gone, or is not what it seems (a machine
        that hangs, a lost network). If it lives, it finds out with its next beat and begins anew; what it was running
        runs twice."""
        consumer = given.consumer
        held = {row[0]: row[5] for row in self._session.run("consumers_overview") + self._gone()}
        if consumer not in held:
            raise OperatorError(f"there is no consumer {consumer}")
        if not given.yes:
            return self._display.would("take", held[consumer], f"messages from consumer {consumer}")
        # One transaction: a sweep that saw the consumer gone and its claims still there would count a failure for each.
        with self._session.transaction():
            crashed = self._crashed(consumer)
            self._session.run("remove_consumer", consumer=consumer, beat=None)
            # Read once: one that lives claims until its next beat, also what it has just lost. A sweep finds that.
            claims = [(row[0], row[1]) for row in self._session.run("claims", consumer=consumer, most=2**31)]
            count = release(self._session, claims, _NO_LIMIT, failed=crashed)
        told = f"messages from consumer {consumer}" + (": they are ready again" if count else "")
        told += ", with one failure more, for it crashed" if count and crashed else ""
        return self._display.did("took", count, told, crashed=crashed)

    def _gone(self) -> list[tuple[Any, ...]]:
        """Consumers that are gone and have left claims, as `consumers_overview` has the others."""
        return [(consumer, None, None, None, None, held) for consumer, held in self._session.run("gone_consumers")]

    def _crashed(self, consumer: int) -> bool:
        """Whether a consumer ended without giving back what it held: its row is gone, or the session that it had."""
        found = self._session.run("session_lives", consumer=consumer)
        return not found or (found[0][0] and not found[0][1])

    # -- dead letters

    def dead_list(self, given: argparse.Namespace) -> int:
        """Dead letters, the oldest first."""
        self._display.show(_DEAD, self._dead(given, given.limit))
        return 0

    def dead_show(self, given: argparse.Namespace) -> int:
        """One dead letter; its payload only if asked for."""
        found = self._dead(argparse.Namespace(ids=[given.id], queue=None, reason=None, older_than=None), 1)
        if not found:
            raise OperatorError(f"there is no dead letter {given.id}")
        fields = dict(zip(_DEAD, found[0], strict=True))
        if given.payload:
            for (payload,) in self._session.run("dead_payload", id=given.id):  # none if it has just gone
                fields |= {"payload": payload, "body": _body(payload)}
        self._display.show(("field", "value"), [] if self._display.as_json else list(fields.items()), whole=fields)
        return 0

    def dead_requeue(self, given: argparse.Namespace) -> int:
        """Put dead letters back into their queues. Several only with a condition, or --all."""
        ids, missing = self._chosen(given)
        if not given.yes:
            return self._display.would("requeue", len(ids), "dead letters" + _not_found(missing), missing=missing)
        went, unreadable, homeless = 0, 0, 0
        for start in range(0, len(ids), _BATCH):
            readable = {}
            for one in ids[start : start + _BATCH]:
                try:
                    for (payload,) in self._session.run("dead_payload", id=one):
                        readable[one] = _priority(payload)
                except ValueError:
                    unreadable += 1
            ((gone, _),) = self._session.run("requeue_dead", ids=list(readable), priorities=list(readable.values()))
            went += len(gone)
            if left := sorted(readable.keys() - set(gone)):
                homeless += len(self._dead(argparse.Namespace(ids=left, queue=None, reason=None, older_than=None)))
        stay = unreadable + homeless
        status = self._settled("requeued", given, went, len(ids) - went - stay, missing)
        if stay:
            raise OperatorError(
                f"{stay} stay: {unreadable} are no messages that anybody could read, of {homeless} the queue is gone"
            )
        return status

    def dead_purge(self, given: argparse.Namespace) -> int:
        """Throw dead letters away. Only with a condition, or --all."""
        ids, missing = self._chosen(given)
        if not given.yes:
            return self._display.would("delete", len(ids), "dead letters" + _not_found(missing), missing=missing)
        count = 0
        for start in range(0, len(ids), _BATCH):
            count += self._session.run("drop_dead", ids=ids[start : start + _BATCH])[0][0]
        return self._settled("deleted", given, count, len(ids) - count, missing)

    def _chosen(self, given: argparse.Namespace) -> tuple[list[int], list[int]]:
        """Ids of the dead letters that were asked for, and what was asked for and is not there."""
        if not (given.ids or given.queue or given.reason or given.older_than is not None or given.all):
            raise OperatorError("which? give ids, --queue, --reason, --older-than or --all")
        ids = [row[0] for row in self._dead(given)]
        missing = sorted(set(given.ids) - set(ids))
        if missing and not ids:
            raise OperatorError(f"nothing to do{_not_found(missing)}")
        return ids, missing

    def _settled(self, verb: str, given: argparse.Namespace, count: int, others: int, missing: list[int]) -> int:
        """Say what became of dead letters; 1 if some were named and nothing was done.

        Parameters:
            others: how many went since they were listed, by another hand.
        """
        first = f"; somebody else was first with {others}" if others else ""
        what = f"dead letters{first}{_not_found(missing)}"
        self._display.did(verb, count, what, others=others, missing=missing)
        return 1 if given.ids and not count else 0

    def _dead(self, given: argparse.Namespace, most: int | None = None) -> list[tuple[Any, ...]]:
        return self._session.run(
            "dead_letters",
            ids=given.ids or None,
            queue=given.queue,
            reason=given.reason,
            age_s=given.older_than,
            most=most if most else 2**31,
        )

    # -- what stock has left

    def taken(self, given: argparse.Namespace) -> int:
        """Messages that a stock Kombu consumer has taken: it never deletes them. By default those of a day and older;
        with --delete they go."""
        rows = self._session.run("count_taken", age_s=given.older_than)
        if not given.delete:
            self._display.show(("queue", "taken"), rows)
            return 0
        if not given.yes:
            return self._display.would(
                "delete", sum(row[1] for row in rows), "messages that stock consumers have taken"
            )
        count = 0
        while deleted := self._session.run("drop_taken", age_s=given.older_than, most=_BATCH)[0][0]:
            count += deleted
        return self._display.did("deleted", count, "messages that stock consumers have taken")


def _not_found(ids: list[int]) -> str:
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


def _priority(payload: str) -> int:
    value = decode(payload)["properties"].get("priority")
    return min(max(int(value), 0), 9) if isinstance(value, int) else 0
