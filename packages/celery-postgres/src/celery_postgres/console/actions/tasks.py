"""Revoking a task, and blocking the tasks of a name."""

from __future__ import annotations

from datetime import datetime

from celery_postgres.console.access import Role
from celery_postgres.console.action import OPERATORS, SOON, Action, Done, Plan, Step
from celery_postgres.console.looking import Look, NotThereError
from celery_postgres.console.views.rows import FIRST_SEARCH_S
from celery_postgres.operations import Operations
from celery_postgres.readmodel import CAP, State, Task, TaskFilter


def own(look: Look) -> Task:
    """The task of the request, if it is this viewer's."""
    task_id = look.asked("id")
    found = look.source.model.task(task_id) if task_id and look.owns(task_id) else None
    if found is None:
        raise NotThereError("Nothing is kept of this task.")
    return found


def _revoke_plan(look: Look, at: datetime) -> Plan:
    found = own(look)
    back = look.link("task", id=look.asked("id"))
    title = f"Revoke {found.row.name or 'this task'}?"
    if found.row.state not in (State.WAITING, State.SCHEDULED, State.RETRYING):
        return Plan(title, (), "", back, refused=f"It is {found.row.state}: only what waits can be revoked here.")
    says = (("", "It will not run. The worker that claims it stores REVOKED as its result"),)
    return Plan(title, says, "Revoke", back, danger=True)


def _revoke(look: Look, broker: Operations, step: Step) -> Done:
    own(look)
    there = broker.cancel(look.asked("id"))
    text = "The task is revoked." if there else "A worker has claimed it meanwhile, or it has ended; nothing was done."
    return Done(text, look.link("task", id=look.asked("id")), there)


def _block_plan(look: Look, at: datetime) -> Plan:
    name = look.asked("name")
    if not name:
        raise NotThereError("The name of the task is missing.")
    if name in look.source.model.blocked():
        return Plan(f"Block {name}?", (), "", look.link("tasks", q=name), refused="It is blocked already.")
    waiting = look.source.model.waiting_of_name(name, search_s=FIRST_SEARCH_S)
    says = (
        (
            str(waiting),
            f"{'task' if str(waiting) == '1' else 'tasks'} of this name wait now, of those that one look finds",
        ),
        ("", f"No worker begins a task of this name, {SOON}: its messages become dead letters"),
        ("", "What runs now runs to its end. Nothing is lost: requeue the letters once it is unblocked"),
    )
    return Plan(f"Block {name}?", says, "Block", look.link("tasks", q=name))


def _block(look: Look, broker: Operations, step: Step) -> Done:
    broker.block_task(look.asked("name"))
    return Done(f"{look.asked('name')} is blocked.", look.link("dead"))


def _unblock_plan(look: Look, at: datetime) -> Plan:
    name = look.asked("name")
    title, back = f"Unblock {name}?", look.link("tasks", q=name)
    if not name:
        raise NotThereError("The name of the task is missing.")
    if name not in look.source.model.blocked():
        return Plan(title, (), "", back, refused="It is not blocked.")
    letters = look.source.model.count_dead(TaskFilter(reason=f"stopped: {name}", whole_task=name), CAP - 1)
    says = (
        ("", f"Workers begin tasks of this name again, {SOON}"),
        (f"{letters:,}", f"{'dead letter' if letters == 1 else 'dead letters'} of it stay: requeue them there"),
    )
    return Plan(title, says, "Unblock", back)


def _unblock(look: Look, broker: Operations, step: Step) -> Done:
    was = broker.unblock_task(look.asked("name"))
    return Done(f"{look.asked('name')} {'is unblocked' if was else 'was not blocked'}.", look.link("dead"), int(was))


TASKS = {
    "revoke": Action(OPERATORS | {Role.TENANT}, "id", _revoke_plan, _revoke),
    "block": Action(OPERATORS, "name", _block_plan, _block),
    "unblock": Action(OPERATORS, "name", _unblock_plan, _unblock),
}
