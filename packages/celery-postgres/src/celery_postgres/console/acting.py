"""What an operator may do: each action first says what it would do, then does exactly that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from celery_postgres.console import limit_acting
from celery_postgres.console.access import Role
from celery_postgres.console.actions import OPERATORS, Action, Done, Plan
from celery_postgres.console.formatting import count, duration, plural
from celery_postgres.console.looking import Look, NotThereError
from celery_postgres.console.views.rows import reason_says
from celery_postgres.errors import FlowError
from celery_postgres.operations import Operations, Requeued
from celery_postgres.readmodel import CAP, State, Task, TaskFilter

logger = logging.getLogger(__name__)

#: Dead letters that one statement changes.
BATCH = 1_000
#: Dead letters that one confirmation changes.
MOST = CAP - 1
_SOON = "within 1.3 s"


def action_of(look: Look) -> tuple[Action, Operations]:
    """The action that a request names, if it exists for this viewer and this console may act."""
    action, broker = _ACTIONS.get(look.asked("do")), look.source.broker
    if action is None or broker is None or look.viewer.role not in action.roles:
        raise NotThereError("There is no such action here, or this key does not have it.")
    return action, broker


def act(look: Look, at: datetime) -> Done:
    """Do it, and log who did what."""
    action, broker = action_of(look)
    try:
        done = action.act(look, broker, at)
    except FlowError as error:
        done = Done(f"Nothing was changed: {error}.", look.link("limits"))
    logger.info("console: %s by %s: %s", look.asked("do"), look.viewer.name, done.text)
    return done


# -- queues


def _queue_plan(*, paused: bool) -> Callable[[Look, datetime], Plan]:
    def plan(look: Look, at: datetime) -> Plan:
        name = look.asked("queue")
        found = look.source.model.queue(name)
        if found is None:
            raise NotThereError("There is no queue of this name.")
        waiting, running = found.queue.waiting, found.queue.running
        back = look.link("queue", name=name)
        if found.queue.paused is paused:
            refused = "It is paused already." if paused else "It is not paused."
            return Plan(f"Queue {name}", (), "", back, refused=refused)
        says: tuple[tuple[str, str], ...]
        if paused:
            says = (
                (str(waiting), f"waiting: workers claim nothing more from it, {_SOON}. New tasks wait too"),
                (str(running), "claimed: they run to their end"),
            )
            return Plan(f"Pause queue {name}?", says, "Pause", back)
        says = ((str(waiting), f"waiting: {plural(found.queue.consumers, 'worker')} may claim them {_SOON}"),)
        return Plan(f"Resume queue {name}?", says, "Resume", back)

    return plan


def _pause(look: Look, broker: Operations, at: datetime) -> Done:
    name = look.asked("queue")
    there = broker.pause(name)
    text = f"Queue {name} is paused." if there else f"There is no queue {name} any more; nothing was done."
    return Done(text, look.link("queue" if there else "queues", name=name if there else None))


def _resume(look: Look, broker: Operations, at: datetime) -> Done:
    name = look.asked("queue")
    there = broker.resume(name)
    text = f"Queue {name} is open." if there else f"There is no queue {name} any more; nothing was done."
    return Done(text, look.link("queue" if there else "queues", name=name if there else None))


# -- dead letters


def _letters(look: Look, at: datetime) -> Iterator[list[int]]:
    """The ids of a group's dead letters that were there at this time, in batches; `MOST` at most."""
    which = TaskFilter(
        state=State.DEAD,
        reason=look.asked("reason"),
        whole_task=look.asked("task"),
        queue=look.asked("queue") or None,
        until=at,
    )
    cursor, left = None, MOST
    while left > 0:
        page = look.source.model.tasks(which, cursor, limit=min(BATCH, left))
        ids = [row.dead_letter for row in page.rows if row.dead_letter is not None]
        if ids:
            yield ids
        left, cursor = left - len(ids), page.next
        if cursor is None:
            return


def _letters_plan(*, requeue: bool) -> Callable[[Look, datetime], Plan]:
    def plan(look: Look, at: datetime) -> Plan:
        number = sum(map(len, _letters(look, at)))
        group = f"{look.asked('task') or 'tasks of unknown name'}: {reason_says(look.asked('reason'))}"
        back = look.link("dead", queue=look.asked("queue"), reason=look.asked("reason"), task=look.asked("task"))
        if not number:
            return Plan(group, (), "", look.link("dead"), refused="This group has no letters any more.")
        later = ("", "Letters that come after this page was made are left alone")
        shown = f"{number:,}"
        says: tuple[tuple[str, str], ...]
        if requeue:
            says = (
                (shown, "go back to their queues, each with its failures forgotten"),
                ("", _wait_says(look)),
                ("", "Those that cannot be read, or whose queue is gone, stay"),
                later,
            )
            return Plan(f"Requeue {group}?", says, f"Requeue {shown}", back, number=number)
        says = ((shown, "are deleted. No copy is kept"), later)
        return Plan(f"Discard {group}?", says, f"Discard {shown}", back, danger=True, number=number)

    return plan


def _wait_says(look: Look) -> str:
    """How those of the queue wait that are there already."""
    queue = look.asked("queue")
    found = look.source.model.queue(queue) if queue else None
    if found is None:
        return "They wait behind what waits there"
    if found.queue.paused:
        return "The queue is paused: they wait until it is resumed"
    if not found.queue.consumers:
        return "No worker consumes the queue: they wait until one does"
    oldest = f", the oldest for {duration(found.queue.oldest_s)}" if found.queue.oldest_s else ""
    return f"{count(found.queue.waiting)} wait there{oldest}"


def _requeue(look: Look, broker: Operations, at: datetime) -> Done:
    total, asked = Requeued(), 0
    for ids in _letters(look, at):
        done = broker.requeue(ids)
        asked += len(ids)
        total = Requeued(
            total.count + done.count,
            total.unreadable + done.unreadable,
            total.without_queue + done.without_queue,
        )
    text = f"{total.count:,} of {asked:,} dead letters are in their queues again."
    if total.unreadable:
        text += f" {total.unreadable:,} cannot be read and stay."
    if total.without_queue:
        text += f" Of {total.without_queue:,} the queue is gone; they stay."
    return Done(text, look.link("dead"))


def _discard(look: Look, broker: Operations, at: datetime) -> Done:
    gone = sum(broker.purge_dead_letters(ids) for ids in _letters(look, at))
    return Done(f"{gone:,} dead letters are deleted.", look.link("dead"))


# -- tasks


def _own(look: Look) -> Task:
    """The task of the request, if it is this viewer's."""
    task_id = look.asked("id")
    found = look.source.model.task(task_id) if task_id and look.owns(task_id) else None
    if found is None:
        raise NotThereError("Nothing is kept of this task.")
    return found


def _revoke_plan(look: Look, at: datetime) -> Plan:
    found = _own(look)
    back = look.link("task", id=look.asked("id"))
    title = f"Revoke {found.row.name or 'this task'}?"
    if found.row.state not in (State.WAITING, State.SCHEDULED, State.RETRYING):
        return Plan(title, (), "", back, refused=f"It is {found.row.state}: only what waits can be revoked here.")
    says = (("", "It will not run. The worker that claims it stores REVOKED as its result"),)
    return Plan(title, says, "Revoke", back, danger=True)


def _revoke(look: Look, broker: Operations, at: datetime) -> Done:
    _own(look)
    there = broker.cancel(look.asked("id"))
    text = "The task is revoked." if there else "A worker has claimed it meanwhile, or it has ended; nothing was done."
    return Done(text, look.link("task", id=look.asked("id")))


def _block_plan(look: Look, at: datetime) -> Plan:
    name = look.asked("name")
    if not name:
        raise NotThereError("The name of the task is missing.")
    says = (
        ("", f"No worker begins a task of this name, {_SOON}: its messages become dead letters"),
        ("", "What runs now runs to its end. Nothing is lost: requeue the letters once it is unblocked"),
    )
    return Plan(f"Block {name}?", says, "Block", look.link("tasks", q=name))


def _block(look: Look, broker: Operations, at: datetime) -> Done:
    broker.block_task(look.asked("name"))
    return Done(f"{look.asked('name')} is blocked.", look.link("dead"))


def _unblock_plan(look: Look, at: datetime) -> Plan:
    plan = _block_plan(look, at)
    says = (("", f"Workers begin tasks of this name again, {_SOON}. Its dead letters stay"),)
    return replace(plan, title=f"Unblock {look.asked('name')}?", says=says, verb="Unblock")


def _unblock(look: Look, broker: Operations, at: datetime) -> Done:
    was = broker.unblock_task(look.asked("name"))
    return Done(f"{look.asked('name')} {'is unblocked' if was else 'was not blocked'}.", look.link("dead"))


_ACTIONS = {
    "pause": Action(OPERATORS, _queue_plan(paused=True), _pause),
    "resume": Action(OPERATORS, _queue_plan(paused=False), _resume),
    "requeue": Action(OPERATORS, _letters_plan(requeue=True), _requeue),
    "discard": Action(OPERATORS, _letters_plan(requeue=False), _discard),
    "revoke": Action(OPERATORS | {Role.TENANT}, _revoke_plan, _revoke),
    "block": Action(OPERATORS, _block_plan, _block),
    "unblock": Action(OPERATORS, _unblock_plan, _unblock),
    **limit_acting.ACTIONS,
}


def at_of(text: str) -> datetime:
    """The time of a plan, from its form; a time that is none, or in the future, is now."""
    now = datetime.now(UTC)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return now
    return min(at, now) if at.tzinfo is not None else now
