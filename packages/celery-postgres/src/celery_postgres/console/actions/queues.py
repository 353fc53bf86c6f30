"""Pausing and resuming a queue."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from celery_postgres.console.action import OPERATORS, SOON, Action, Done, Plan, Step
from celery_postgres.console.formatting import plural
from celery_postgres.console.looking import Look, NotThereError
from celery_postgres.operations import Operations


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
                (str(waiting), f"waiting: workers claim nothing more from it, {SOON}. New tasks wait too"),
                (str(running), "claimed: they run to their end"),
            )
            return Plan(f"Pause queue {name}?", says, "Pause", back)
        says = ((str(waiting), f"waiting: {plural(found.queue.consumers, 'worker')} may claim them {SOON}"),)
        return Plan(f"Resume queue {name}?", says, "Resume", back)

    return plan


def _pause(look: Look, broker: Operations, step: Step) -> Done:
    name = look.asked("queue")
    there = broker.pause(name)
    text = f"Queue {name} is paused." if there else f"There is no queue {name} any more; nothing was done."
    return Done(text, look.link("queue" if there else "queues", name=name if there else None), int(there))


def _resume(look: Look, broker: Operations, step: Step) -> Done:
    name = look.asked("queue")
    there = broker.resume(name)
    text = f"Queue {name} is open." if there else f"There is no queue {name} any more; nothing was done."
    return Done(text, look.link("queue" if there else "queues", name=name if there else None), int(there))


QUEUES = {
    "pause": Action(OPERATORS, "queue", _queue_plan(paused=True), _pause),
    "resume": Action(OPERATORS, "queue", _queue_plan(paused=False), _resume),
}
