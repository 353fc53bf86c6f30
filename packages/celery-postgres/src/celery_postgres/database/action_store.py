"""What people did to the broker, and which workers were lost: the table of actions, and who writes into it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2

from celery_postgres.database.store import Store
from celery_postgres.errors import SchemaError

_LAST_ID = 2**63 - 1
#: Actions that are looked at for what changed.
_SCANNED = 1_000
#: Attempts that are looked at for what was lost.
_ATTEMPTS_SCANNED = 10_000
#: Actions that one statement deletes at most.
_DROPPED = 1_000
#: Characters of a text that is kept.
_LONGEST = 1_000


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody did.

    Attributes:
        id: its number.
        began_at: when it began.
        ended_at: when it ended; None while it goes on, or if it was cut off.
        source: where it was done: `console`, `tool`, `http`, or what a program calls itself.
        actor: who did it, as the source knows them: the name of a key, or a user and a machine.
        login: the database's login that wrote this.
        action: what was done.
        subject: to which queue, task, worker or entry.
        planned: how many things the dry run found; None where there is no number.
        done: how many things were changed.
        outcome: what became of it, in a sentence.
    """

    id: int
    began_at: datetime
    ended_at: datetime | None
    source: str
    actor: str
    login: str
    action: str
    subject: str
    planned: int | None
    done: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An action that goes on. `conditions` are those that it was begun with."""

    action: str
    conditions: dict[str, str]
    planned: int | None
    done: int
    began_at: datetime


@dataclass(frozen=True, slots=True)
class Pause:
    """Since when a queue is paused, and by whom."""

    queue: str
    since: datetime
    actor: str


@dataclass(frozen=True, slots=True)
class LostConsumer:
    """A consumer that others found dead, and how many messages it had claimed, which run again."""

    id: int
    lost_at: datetime
    hostname: str | None
    pid: int | None
    started_at: datetime | None
    claimed: int
    name: str | None = None
    pool: str | None = None
    slots: int | None = None
    app_version: str | None = None
    queues: list[str] | None = None


@dataclass(frozen=True, slots=True)
class LostTask:
    """A task that was lost with its consumer for good, and when it began."""

    consumer: int
    task_id: str
    task: str | None
    since: datetime | None


@dataclass(slots=True)
class Record:
    """An action that is going on; its block fills in `done` and `outcome`.

    Attributes:
        id: its number.
        open: whether it goes on after this, in another call.
    """

    id: int
    done: int = 0
    outcome: str = ""
    open: bool = False


class ActionStore(Store):
    """Write actions, and read them."""

    def begin(
        self,
        *,
        source: str,
        actor: str,
        action: str,
        subject: str = "",
        conditions: Mapping[str, Any] | None = None,
        planned: int | None = None,
    ) -> int:
        """Write an action before it begins, so that what is cut off is known too. Returns its number."""
        ((number,),) = self._run(
            "begin_action",
            source=source,
            actor=_short(actor),
            action=action,
            subject=_short(subject),
            conditions=json.dumps(dict(conditions)) if conditions else "",
            planned=planned,
        )
        return int(number)

    def go_on(self, number: int, actor: str, done: int) -> int | None:
        """Add to what an action has done. Returns how much that is now; None if it has ended, or is another's."""
        for (count,) in self._run("continue_action", id=number, actor=_short(actor), done=done):
            return int(count)
        return None

    def end(self, number: int, done: int, outcome: str) -> int | None:
        """Write its end, and what it has done since it last said so. Returns how much that is in all."""
        for (count,) in self._run("end_action", id=number, done=done, outcome=_short(outcome)):
            return int(count)
        return None

    def unfinished(self, number: int, actor: str) -> Unfinished | None:
        """An action that this person has begun and not ended."""
        for action, conditions, planned, done, began_at in self._run(
            "unfinished_action", id=number, actor=_short(actor)
        ):
            return Unfinished(action, _texts(conditions), planned, done, began_at)
        return None

    @contextmanager
    def recorded(self, **action: Any) -> Iterator[Record]:
        """Record what the block does; see `begin` for the arguments. If the block raises, the record says so."""
        record = Record(self.begin(**action))
        try:
            yield record
        except BaseException as error:
            with suppress(psycopg2.Error, SchemaError):  # the record then has no end, which says the same
                # Not the error's text, which may quote a value.
                self.end(record.id, record.done, record.outcome or f"failed: {type(error).__name__}")
            raise
        if not record.open:
            self.end(record.id, record.done, record.outcome)

    def drop_old(self, kept_s: float) -> None:
        """Delete what began longer ago, if this login is the owner of the table: no role that acts may delete any."""
        ((may,),) = self._run("may_drop_actions")
        count = _DROPPED if may else 0
        while count == _DROPPED:
            ((count,),) = self._run("drop_old_actions", after_s=kept_s, limit=_DROPPED)

    # -- reading

    def may_act(self) -> bool:
        """Whether this login may record an action, and so begin one."""
        return bool(self._run("view_may_act")[0][0])

    def actions(self, limit: int, before: int | None = None) -> list[Action]:
        """Actions, the last begun first."""
        rows = self._run("view_actions", before_id=_LAST_ID if before is None else before, limit=limit)
        return [Action(*row) for row in rows]

    def changes(self, limit: int) -> list[Action]:
        """Of the last thousand actions those that may change how the tasks of others fare, the last begun first."""
        return [Action(*row) for row in self._run("view_changes", scanned=_SCANNED, limit=limit)]

    def pauses(self, queues: Sequence[str]) -> dict[str, Pause]:
        """The last pause of each of these queues, as far as one was recorded."""
        if not queues:
            return {}
        return {row[0]: Pause(*row) for row in self._run("view_pauses", names=list(queues))}

    def lost(self, within_s: float, limit: int) -> list[LostConsumer]:
        """The consumers that were lost in the last seconds, the last first."""
        return [LostConsumer(*row) for row in self._run("view_lost_consumers", within_s=within_s, limit=limit)]

    def lost_tasks(self, consumers: Sequence[int]) -> list[LostTask]:
        """What was lost with these consumers for good, of the newest attempts that are remembered."""
        if not consumers:
            return []
        rows = self._run("view_lost_tasks", consumers=list(consumers), scanned=_ATTEMPTS_SCANNED)
        return [LostTask(*row) for row in rows]


def _short(text: str) -> str:
    """As it is kept. Half of a surrogate pair, or a NUL, is no text for a database."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[:_LONGEST]


def _texts(conditions: str) -> dict[str, str]:
    try:
        found = json.loads(conditions)
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
