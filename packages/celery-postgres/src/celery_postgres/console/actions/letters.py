"""Requeueing and discarding a group of dead letters, in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from celery_postgres.console.action import OPERATORS, Action, Done, Plan, Step
from celery_postgres.console.formatting import count, duration
from celery_postgres.console.looking import Look, NotThereError
from celery_postgres.console.views.rows import reason_says
from celery_postgres.operations import Operations
from celery_postgres.readmodel import CAP, CursorError, State, TaskFilter

#: Dead letters that one statement changes.
BATCH = 1_000
#: Dead letters that one confirmation changes.
MOST = CAP - 1
#: A request begins no batch after so long: its page then says how far it is, and asks for the next.
PART_S = 1.0


def _which(look: Look, at: datetime) -> TaskFilter:
    """The letters of the group that were there at this time."""
    return TaskFilter(
        state=State.DEAD,
        reason=look.asked("reason"),
        whole_task=look.asked("task"),
        queue=look.asked("queue") or None,
        until=at,
    )


def _in_batches(look: Look, step: Step, change: Callable[[Sequence[int]], int]) -> tuple[int, str]:
    """Change the letters of the group from where the step goes on, until its time is over.

    Returns:
        How many were changed, and where to go on; an empty text at the end.
    """
    which, ends_at = _which(look, step.at), time.monotonic() + PART_S
    changed, after = 0, step.after
    while True:
        try:
            page = look.source.model.tasks(which, after or None, limit=BATCH)
        except CursorError:
            raise NotThereError("This part of the action does not exist.") from None
        ids = [row.dead_letter for row in page.rows if row.dead_letter is not None]
        if ids:
            changed += change(ids)
        after = page.next or ""
        if not after or time.monotonic() >= ends_at:
            return changed, after


def _letters_plan(*, requeue: bool) -> Callable[[Look, datetime], Plan]:
    def plan(look: Look, at: datetime) -> Plan:
        number = look.source.model.count_dead(_which(look, at), MOST)
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


def _requeue(look: Look, broker: Operations, step: Step) -> Done:
    changed, after = _in_batches(look, step, lambda ids: broker.requeue(ids).count)
    return Done("", look.link("dead"), changed, after)


def _requeued(done: int, planned: int) -> str:
    text = f"{done:,} of {planned:,} dead letters are in their queues again."
    if done < planned:
        text += " The others cannot be read, their queue is gone, or somebody else was faster."
    return text


def _discard(look: Look, broker: Operations, step: Step) -> Done:
    changed, after = _in_batches(look, step, broker.purge_dead_letters)
    return Done("", look.link("dead"), changed, after)


LETTERS = {
    "requeue": Action(OPERATORS, "task", _letters_plan(requeue=True), _requeue, whole=_requeued),
    "discard": Action(
        OPERATORS,
        "task",
        _letters_plan(requeue=False),
        _discard,
        whole=lambda done, planned: f"{done:,} of {planned:,} dead letters are deleted.",
    ),
}
