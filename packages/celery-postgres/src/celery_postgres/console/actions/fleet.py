"""Draining a worker, and sending, disabling and enabling an entry of the schedule."""

from __future__ import annotations

from datetime import datetime

from celery_postgres.console.action import OPERATORS, SOON, Action, Done, Plan, Step
from celery_postgres.console.formatting import duration
from celery_postgres.console.looking import Look, NotThereError
from celery_postgres.operations import Operations
from celery_postgres.readmodel import Schedule, Worker
from celery_postgres.readmodel.thresholds import BEATLESS_S

#: Within how long a beat follows.
_BEAT_SOON = "within 5 s"
_GONE = "There is no such worker any more; nothing was done."


def _worker(look: Look) -> Worker:
    for one in look.source.model.workers_now():
        if str(one.id) == look.asked("id"):
            return one
    raise NotThereError("There is no such worker.")


def _drain_plan(look: Look, at: datetime) -> Plan:
    worker, back = _worker(look), look.link("workers")
    name = worker.name or worker.hostname or f"consumer {worker.id}"
    title = f"Drain {name}?"
    if worker.lost:
        return Plan(title, (), "", back, refused="It is lost: there is nothing to drain.")
    if worker.name is None:
        refused = "It does not report itself, so it would not see this. Send it SIGTERM."
        return Plan(title, (), "", back, refused=refused)
    if worker.draining:
        return Plan(title, (), "", back, refused="It ends already, when its tasks have ended.")
    ages = [(at - one.since).total_seconds() for one in worker.running]
    longest = f", the longest for {duration(max(ages))}" if ages else ""
    busy = worker.busy or 0
    says = [
        (str(busy), f"{'task runs' if busy == 1 else 'tasks run'} in it{longest}. It ends when they have ended"),
        ("", f"It takes no new task, {SOON}; what it has claimed beyond these goes back to its queues"),
        *_alone(look, worker),
        ("", "A supervisor (systemd, Kubernetes) may start it again: scale it down there if it shall stay away"),
    ]
    return Plan(title, tuple(says), "Drain", back)


def _alone(look: Look, worker: Worker) -> list[tuple[str, str]]:
    """The queues that no other worker consumes."""
    others = {
        queue
        for one in look.source.model.workers()
        if one.id != worker.id and not one.lost and not one.draining
        for queue in one.queues
    }
    alone = [queue for queue in worker.queues if queue not in others and not queue.endswith(".pidbox")]
    if not alone:
        return []
    names = ", ".join(alone[:3]) + (f" and {len(alone) - 3} more" if len(alone) > 3 else "")
    return [(str(len(alone)), f"{'queue has' if len(alone) == 1 else 'queues have'} no other worker: {names}")]


def _drain(look: Look, broker: Operations, step: Step) -> Done:
    worker = _worker(look)
    there = broker.drain(worker.id)
    text = f"{worker.name} ends when its tasks have ended." if there else _GONE
    return Done(text, look.link("workers"), int(there))


def _forget_plan(look: Look, at: datetime) -> Plan:
    worker, back = _worker(look), look.link("workers")
    title = f"Forget {worker.name or worker.hostname}?"
    if worker.lost_at is None:
        return Plan(title, (), "", back, refused="It is not among the workers that others found dead.")
    return Plan(title, (("", "It is no longer listed. Its tasks run elsewhere already"),), "Forget", back)


def _forget(look: Look, broker: Operations, step: Step) -> Done:
    worker = _worker(look)
    there = broker.forget_worker(worker.id)
    text = f"{worker.name or worker.hostname} is no longer listed." if there else _GONE
    return Done(text, look.link("workers"), int(there))


def _entry(look: Look) -> Schedule:
    found = look.source.model.schedule(look.asked("name"))
    if found is None:
        raise NotThereError("There is no such entry in the schedule.")
    return found


def _alive(look: Look) -> bool:
    return any(one.seen_s <= BEATLESS_S.warning for one in look.source.model.beats())


def _run_plan(look: Look, at: datetime) -> Plan:
    one, back = _entry(look), look.link("schedules")
    title = f"Run {one.entry} now?"
    if one.requested_at is not None:
        return Plan(title, (), "", back, refused="It is asked for already, and no beat has sent it yet.")
    last = []
    if one.last is not None and one.last.queue is not None:
        state = "runs" if one.last.state == "running" else "waits"
        last = [("", f"The task of the last run {state} in {one.last.queue}")]
    says = [
        ("1", f"{one.task or 'task'} is sent, with the arguments and the queue of the entry"),
        *last,
        ("", f"A beat does so {_BEAT_SOON}" if _alive(look) else "No beat lives: it is sent as soon as one starts"),
        ("", "The schedule stays as it is" + ("" if one.enabled else ", and the entry stays disabled")),
    ]
    return Plan(title, tuple(says), "Run now", back)


def _run(look: Look, broker: Operations, step: Step) -> Done:
    one = _entry(look)
    there = broker.run_schedule(one.entry)
    when = _BEAT_SOON if _alive(look) else "as soon as one starts"
    text = f"{one.entry}: a beat sends it {when}." if there else "There is no such entry any more; nothing was done."
    return Done(text, look.link("schedules"), int(there))


def _disable_plan(look: Look, at: datetime) -> Plan:
    one, back = _entry(look), look.link("schedules")
    title = f"Disable {one.entry}?"
    if not one.enabled:
        return Plan(title, (), "", back, refused="It is disabled already.")
    says = (
        ("", f"No beat sends {one.task or 'its task'} by its schedule ({one.schedule or 'not known'}), from now on"),
        ("", "What it sent before waits and runs as before. Run now still sends it"),
        ("", "Beats of a release before do not know this, and go on"),
    )
    return Plan(title, says, "Disable", back)


def _disable(look: Look, broker: Operations, step: Step) -> Done:
    one = _entry(look)
    there = broker.disable_schedule(one.entry)
    text = f"{one.entry} is disabled." if there else "It was not enabled any more; nothing was done."
    return Done(text, look.link("schedules"), int(there))


def _enable_plan(look: Look, at: datetime) -> Plan:
    one, back = _entry(look), look.link("schedules")
    title = f"Enable {one.entry}?"
    if one.enabled:
        return Plan(title, (), "", back, refused="It is enabled already.")
    says = (
        ("", f"Beats send it again, {_BEAT_SOON}: {one.schedule or 'by its schedule'}"),
        ("", "Its next run counts from now: what was due meanwhile is not sent"),
    )
    return Plan(title, says, "Enable", back)


def _enable(look: Look, broker: Operations, step: Step) -> Done:
    one = _entry(look)
    there = broker.enable_schedule(one.entry)
    text = f"{one.entry} is enabled." if there else "It was not disabled any more; nothing was done."
    return Done(text, look.link("schedules"), int(there))


FLEET = {
    "drain-worker": Action(OPERATORS, "id", _drain_plan, _drain),
    "forget-worker": Action(OPERATORS, "id", _forget_plan, _forget),
    "run-now": Action(OPERATORS, "name", _run_plan, _run),
    "disable": Action(OPERATORS, "name", _disable_plan, _disable),
    "enable": Action(OPERATORS, "name", _enable_plan, _enable),
}
