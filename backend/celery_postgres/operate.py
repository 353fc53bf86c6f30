"""What an operator does with queues: see what waits and what died, stop and resume, bring back or throw away."""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from celery_postgres.message import decode
from celery_postgres.purging import purge
from celery_postgres.session import Session

_BATCH = 1000

#: Names of what `dead list` shows, in the order of the statement's columns.
_DEAD = ("id", "died_at", "queue", "task_id", "tenant_id", "failures", "reason", "bytes")


class OperatorError(Exception):
    """What cannot be done, in one line for whoever asked for it."""


class Tool:
    """The commands; each returns the exit status.

    Parameters:
        session: to the broker's database.
        as_json: machines read it.
    """

    def __init__(self, session: Session, *, as_json: bool, out: Console) -> None:
        self._session = session
        self._as_json = as_json
        self._out = out

    # -- queues

    def queues(self, given: argparse.Namespace) -> int:
        """Queues with what waits in them."""
        names = ("queue", "paused", "ready", "delayed", "held", "taken", "oldest_s", "consumers")
        self._show(names, self._session.run("queues_overview"))
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
        self._say(
            f"{queue} is {'paused' if paused else 'open'}; consumers follow within 1.3 s", queue=queue, paused=paused
        )
        return 0

    def purge(self, given: argparse.Namespace) -> int:
        """Delete what waits in a queue, due or not. What consumers hold stays."""
        if not self._session.run("find_queue", queue=given.queue):
            raise OperatorError(f"there is no queue {given.queue!r}")
        if not given.yes:
            row = next(row for row in self._session.run("queues_overview") if row[0] == given.queue)
            return self._would("delete", row[2] + row[3], f"messages of {given.queue}")
        return self._did("deleted", purge(self._session.run, given.queue), f"messages of {given.queue}")

    def cancel(self, given: argparse.Namespace) -> int:
        """Revoke a task that waits: a worker discards it at once, and whoever waits for its result hears of it."""
        found = self._session.run("find_messages", task_id=given.task_id)
        waiting = sum(visible for _, visible, _, _ in found)
        if not waiting:
            held = f": consumer {found[0][3]} holds it, so `celery control revoke` it" if found else ""
            raise OperatorError(f"no message of task {given.task_id} waits{held}")
        if not given.yes:
            return self._would("revoke", waiting, f"messages of task {given.task_id}")
        ((count, _),) = self._session.run("cancel_messages", task_id=given.task_id)
        return self._did("revoked", count, f"messages of task {given.task_id}")

    # -- tasks by name

    def stop(self, given: argparse.Namespace) -> int:
        """Let no worker begin a task of this name: what comes up is set aside as a dead letter, until `allow`. Other
        tasks of its queue go on, and so does what runs already."""
        if not given.task:
            raise OperatorError("which task? its name is empty")
        self._session.run("stop_task", task=given.task)
        self._say(
            f"{given.task} is stopped; consumers follow within 1.3 s, and set aside what they would have run",
            task=given.task,
            stopped=True,
        )
        return 0

    def allow(self, given: argparse.Namespace) -> int:
        """End a stop. What was set aside comes back with `dead requeue`."""
        if not self._session.run("allow_task", task=given.task):
            raise OperatorError(f"{given.task!r} is not stopped")
        self._say(
            f"{given.task} may run again; consumers follow within 1.3 s, and then dead requeue "
            f"--reason 'stopped: {given.task}' brings back what was set aside",
            task=given.task,
            stopped=False,
        )
        return 0

    def stopped(self, given: argparse.Namespace) -> int:
        """Tasks that are stopped."""
        self._show(("task", "stopped_at"), self._session.run("stopped_tasks"))
        return 0

    # -- consumers

    def consumers(self, given: argparse.Namespace) -> int:
        """Processes that consume, and what they hold."""
        self._show(("id", "hostname", "pid", "started_at", "queues", "held"), self._session.run("consumers_overview"))
        return 0

    def release(self, given: argparse.Namespace) -> int:
        """Take everything from a consumer that is not what it seems (a machine that hangs, a lost network). If it
        lives, it finds out with its next beat and begins anew; what it was running runs twice."""
        held = {row[0]: row[5] for row in self._session.run("consumers_overview")}
        if given.consumer not in held:
            raise OperatorError(f"there is no consumer {given.consumer}")
        if not given.yes:
            return self._would("take", held[given.consumer], f"messages from consumer {given.consumer}")
        self._session.run("remove_consumer", consumer=given.consumer, beat=None)
        return self._did("took", held[given.consumer], f"messages from consumer {given.consumer}; others run them soon")

    # -- dead letters

    def dead_list(self, given: argparse.Namespace) -> int:
        """Dead letters, the oldest first."""
        self._show(_DEAD, self._dead(given, given.limit))
        return 0

    def dead_show(self, given: argparse.Namespace) -> int:
        """One dead letter; its payload only if asked for."""
        found = self._dead(argparse.Namespace(ids=[given.id], queue=None, reason=None, before=None), 1)
        if not found:
            raise OperatorError(f"there is no dead letter {given.id}")
        fields = dict(zip(_DEAD, found[0], strict=True))
        if given.payload:
            fields["payload"] = self._session.run("dead_payload", id=given.id)[0][0]
            fields["body"] = _body(fields["payload"])
        self._show(("field", "value"), [] if self._as_json else list(fields.items()), whole=fields)
        return 0

    def dead_requeue(self, given: argparse.Namespace) -> int:
        """Put dead letters back into their queues. Several only with a condition, or --all."""
        self._want_a_condition(given)
        ids = [row[0] for row in self._dead(given)]
        if not given.yes:
            return self._would("requeue", len(ids), "dead letters")
        went, unreadable = 0, 0
        for start in range(0, len(ids), _BATCH):
            readable = []
            for one in ids[start : start + _BATCH]:
                try:
                    readable.append((one, _priority(self._session.run("dead_payload", id=one)[0][0])))
                except ValueError:
                    unreadable += 1
            ((gone, _),) = self._session.run(
                "requeue_dead", ids=[one for one, _ in readable], priorities=[priority for _, priority in readable]
            )
            went += len(gone)
        self._did("requeued", went, "dead letters")
        if went < len(ids):
            raise OperatorError(
                f"{len(ids) - went} stay: {unreadable} are no messages that anybody could read, "
                f"of {len(ids) - went - unreadable} the queue is gone"
            )
        return 0

    def dead_purge(self, given: argparse.Namespace) -> int:
        """Throw dead letters away. Only with a condition, or --all."""
        self._want_a_condition(given)
        ids = [row[0] for row in self._dead(given)]
        if not given.yes:
            return self._would("delete", len(ids), "dead letters")
        count = 0
        for start in range(0, len(ids), _BATCH):
            count += self._session.run("drop_dead", ids=ids[start : start + _BATCH])[0][0]
        return self._did("deleted", count, "dead letters")

    def _dead(self, given: argparse.Namespace, most: int | None = None) -> list[tuple[Any, ...]]:
        before = None if given.before is None else datetime.now(UTC) - timedelta(seconds=given.before)
        return self._session.run(
            "dead_letters",
            ids=given.ids or None,
            queue=given.queue,
            reason=given.reason,
            before=before,
            most=most if most else 2**31,
        )

    @staticmethod
    def _want_a_condition(given: argparse.Namespace) -> None:
        if not (given.ids or given.queue or given.reason or given.before is not None or given.all):
            raise OperatorError("which? give ids, --queue, --reason, --older-than or --all")

    # -- what stock has left

    def taken(self, given: argparse.Namespace) -> int:
        """Messages that a stock Kombu consumer has taken: it never deletes them. By default those of a day and older;
        with --delete they go."""
        rows = self._session.run("count_taken", age_s=given.older_than)
        if not given.delete:
            self._show(("queue", "taken"), rows)
            return 0
        if not given.yes:
            return self._would("delete", sum(row[1] for row in rows), "messages that stock consumers have taken")
        count = 0
        while deleted := self._session.run("drop_taken", age_s=given.older_than, most=_BATCH)[0][0]:
            count += deleted
        return self._did("deleted", count, "messages that stock consumers have taken")

    # -- saying it

    def _would(self, verb: str, count: int, what: str) -> int:
        self._say(f"would {verb} {count} {what}; with --yes it is done", dry_run=True, verb=verb, count=count)
        return 0

    def _did(self, verb: str, count: int, what: str) -> int:
        self._say(f"{verb} {count} {what}", dry_run=False, verb=verb, count=count)
        return 0

    def _say(self, line: str, **fields: Any) -> None:
        if self._as_json:
            self._print_json(fields)
        else:
            self._out.print(Text(visible(line)), soft_wrap=True)

    def _show(self, names: Sequence[str], rows: list[tuple[Any, ...]], whole: Any = None) -> None:
        if self._as_json:
            self._print_json([dict(zip(names, row, strict=True)) for row in rows] if whole is None else whole)
            return
        table = Table(*names, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(visible(_cell(name, value))) for name, value in zip(names, row, strict=True)))
        self._out.print(table)
        if not rows:
            self._out.print("none", style="dim")

    def _print_json(self, value: Any) -> None:
        self._out.out(json.dumps(value, default=_plain), highlight=False)


def visible(text: str) -> str:
    """The same with everything escaped that a terminal would obey (`\\x1b`, `\\n`, marks that turn the direction of
    writing): producers choose the names of queues and the ids of tasks."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_s"):
        return f"{value:.1f}"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, list):
        return ", ".join(value)
    return str(value)


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
