"""The commands that only look: the console's read model in a terminal."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from celery_postgres.database.action_store import Action, ActionStore
from celery_postgres.database.counting import CAP
from celery_postgres.database.operator_store import BlockedTask, ConsumerOverview, QueueOverview
from celery_postgres.database.queue_view_store import QueueViewStore
from celery_postgres.database.task_status_store import TaskStatusStore
from celery_postgres.readmodel import State, TaskFilter, TaskRow
from celery_postgres.readmodel.model import SHORTEST_ID
from celery_postgres.tool.display import Capped

if TYPE_CHECKING:
    from celery_postgres.tool.operator import Operator

#: Declares a command: its name and the function that carries it out.
Declare = Callable[[str, Callable[["Operator", argparse.Namespace], int]], argparse.ArgumentParser]


def register(command: Declare, age: Callable[[str], float], limit: Callable[[str], int]) -> None:
    """Declare the commands.

    Args:
        command: declares one.
        age: reads `90`, `15m`, `2h` or `7d`.
        limit: reads how many rows to show.
    """
    command("queues", queues).add_argument(
        "--exact", action="store_true", help="count more than 10,000 messages of a state: 0.1 s a million"
    )
    command("problems", problems)
    listed = command("tasks", tasks)
    listed.add_argument("--state", choices=[str(one) for one in State], metavar="STATE", help=", ".join(State))
    listed.add_argument("--task", metavar="NAME", help="a part of the task's name")
    listed.add_argument("--queue")
    listed.add_argument("--tenant", type=_tenant, metavar="ID")
    listed.add_argument("--since", type=age, metavar="AGE", help="changed within this time: 90, 15m, 2h, 7d")
    listed.add_argument("--until", type=age, metavar="AGE", help="changed longer ago than this")
    listed.add_argument("--limit", type=limit, default=50, help="rows of a page (%(default)s)")
    listed.add_argument("--cursor", help="where the page before said that it goes on")
    command("state", state).add_argument("task_id")
    command("find", find).add_argument("text", help="the first 8 characters of an id, or more")
    command("consumers", consumers)
    command("stopped", stopped)
    command("actions", actions).add_argument(
        "--limit", type=limit, default=50, help="0 for the last 1,000 (%(default)s)"
    )


@dataclass(frozen=True, slots=True)
class _QueueLine(QueueOverview):
    """A queue in the overview, with its dead letters."""

    dead_letters: int


@dataclass(frozen=True, slots=True)
class _ProblemLine:
    severity: str
    rule: str
    sentence: str
    detail: str
    age_s: float | None
    view: str
    subject: str


@dataclass(frozen=True, slots=True)
class _TaskLine:
    task_id: str | None
    task: str | None
    state: str
    queue: str | None
    since: datetime | None
    waited_s: float | None
    ran_s: float | None
    worker: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    task_id: str


def _tenant(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no UUID: tasks are found by tenants that are") from None


def queues(operator: Operator, given: argparse.Namespace) -> int:
    """List the queues and their messages by state, internal queues last. 10,000+ means as many or more: --exact counts
    them all."""
    # Without a command there are no options.
    cap = None if getattr(given, "exact", False) else CAP
    dead = {one.queue: one.count for one in QueueViewStore(operator.session).dead_by_queue()}
    rows = [
        _QueueLine(
            one.queue,
            one.paused,
            Capped(one.ready, cap),
            Capped(one.scheduled, cap),
            Capped(one.claimed, cap),
            Capped(one.taken_by_stock, cap),
            one.oldest_s,
            one.consumers,
            Capped(dead.get(one.queue, 0), CAP),
        )
        for one in operator.store.queues(cap=cap)
    ]
    operator.display.show(_QueueLine, rows)
    return 0


def problems(operator: Operator, given: argparse.Namespace) -> int:
    """Say what needs attention, the most urgent first; the exit status is 0 also then."""
    found = operator.model.problems()
    if operator.display.is_json:
        names = [field.name for field in fields(_ProblemLine)][1:]
        lines = [_ProblemLine(one.severity.name.lower(), *(getattr(one, name) for name in names)) for one in found]
        operator.display.show(_ProblemLine, lines)
        return 0
    for one in found:
        operator.display.say(f"{one.severity.name.lower()}: {one.sentence}. {one.detail}".rstrip())
    if not found:
        operator.display.say("Nothing needs attention.")
    return 0


def tasks(operator: Operator, given: argparse.Namespace) -> int:
    """List tasks, the last changed first; scheduled ones the next due first, running ones the longest claimed first."""
    page = operator.model.tasks(_filter(given), given.cursor, limit=min(given.limit or 1_000, 1_000))
    if operator.display.is_json:
        rows = [{name: value for name, value in asdict(one).items() if name != "position"} for one in page.rows]
        operator.display.say("", tasks=rows, next=page.next, searched_until=page.searched_until)
        return 0
    operator.display.show(_TaskLine, [_line(one) for one in page.rows])
    if page.searched_until is not None:
        operator.display.say(f"searched until {page.searched_until:%Y-%m-%d %H:%M:%S} UTC")
    if page.next is not None:
        operator.display.say(f"older: add --cursor {page.next}")
    elif given.task and not page.rows:
        operator.display.say(f"no such task has {given.task!r} in its name: upper and lower case differ")
    return 0


def _filter(given: argparse.Namespace) -> TaskFilter:
    now = datetime.now(UTC)
    since, until = (None if age is None else now - timedelta(seconds=age) for age in (given.since, given.until))
    state = None if given.state is None else State(given.state)
    return TaskFilter(state, given.task, given.queue, given.tenant, since, until)


def _line(row: TaskRow) -> _TaskLine:
    times = row.changed_at, row.waited_s, row.ran_s
    return _TaskLine(row.task_id, row.name, str(row.state), row.queue, *times, row.worker, row.error)


def state(operator: Operator, given: argparse.Namespace) -> int:
    """Show where a task is: its message, its consumer, its stored state or its dead letter."""
    status = TaskStatusStore(operator.session).of(given.task_id)
    found = operator.model.task(given.task_id)
    shown = {}
    if found is not None:
        ended = [one.error for one in found.attempts if one.error and one.state is not State.DEAD]
        shown = {
            "task": found.row.name,
            "queue": status.queue or found.row.queue,
            "worker": found.row.worker,
            "error": ended[-1] if ended else found.row.error,
        }
    operator.display.show_one(asdict(status) | shown)
    return 0


def consumers(operator: Operator, given: argparse.Namespace) -> int:
    """List the consumers and how many messages each has claimed. One without a hostname is gone and has left its
    claims behind."""
    operator.display.show(ConsumerOverview, operator.store.consumers())
    return 0


def stopped(operator: Operator, given: argparse.Namespace) -> int:
    """List the blocked tasks."""
    operator.display.show(BlockedTask, operator.store.blocked_tasks())
    return 0


def actions(operator: Operator, given: argparse.Namespace) -> int:
    """List what was done by hand, in the console and with this tool: who, what, and what became of it."""
    found = ActionStore(operator.session).actions(given.limit or 1_000)
    operator.display.show(Action, found)
    return 0


def find(operator: Operator, given: argparse.Namespace) -> int:
    """List the ids of tasks that begin with a text of 8 characters or more: whole, for `state` and `cancel`."""
    if len(given.text) < SHORTEST_ID:
        raise ValueError(f"{given.text!r} is too short: give the first {SHORTEST_ID} characters of an id, or more")
    operator.display.show(_Found, [_Found(one) for one in operator.model.find(given.text)])
    return 0


def is_known(operator: Operator, task: str) -> bool:
    """Whether a message, a stored result or a dead letter has this task's name, among those that a search reads."""
    cursor = None
    for _ in range(3):
        page = operator.model.tasks(TaskFilter(task=task), cursor)
        if any(one.name == task for one in page.rows):
            return True
        cursor = page.next
        if cursor is None:
            return False
    return False
