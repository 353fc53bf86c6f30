"""Setting and removing limits of fair queues."""

from __future__ import annotations

from datetime import datetime

from celery_postgres.console.action import OPERATORS, Action, Done, Plan, Step
from celery_postgres.console.formatting import rate
from celery_postgres.console.looking import Look
from celery_postgres.database.limiting import NewLimit
from celery_postgres.errors import FlowError
from celery_postgres.operations import Operations
from celery_postgres.readmodel import Limit

_MINUTE_S = 60
#: The fields of the form, besides the queue and the key.
FIELDS = ("concurrency", "per_minute", "burst", "refuse", "weight")
_MOST_DIGITS = 12


def named(queue: str, key: str | None) -> str:
    """Whose limits they are."""
    if key is None:
        return f"the whole queue {queue}"
    return f"each key of queue {queue}" if key == "*" else f"key {key} of queue {queue}"


def asked(look: Look) -> NewLimit:
    """The limits of a form; an empty field leaves its limit as it is.

    Raises:
        FlowError: a field has no number.
    """
    per_minute = _number(look, "per_minute", "rate")
    refuse = look.asked("refuse")
    return NewLimit(
        _whole(look, "concurrency"),
        None if per_minute is None else per_minute / _MINUTE_S,
        _whole(look, "burst"),
        None if not refuse else refuse == "yes",
        _whole(look, "weight"),
    )


def _number(look: Look, field: str, name: str) -> float | None:
    text = look.asked(field)
    try:
        return float(text) if text else None
    except ValueError:
        raise FlowError(f"a {name} is a number, such as 120 or 0.5") from None


def _whole(look: Look, field: str) -> int | None:
    text = look.asked(field)
    if text and not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise FlowError(f"a {field} is a whole number, such as 5")
    return int(text) if text else None


def _whose(look: Look) -> tuple[str, str | None]:
    return look.asked("queue"), look.asked("key") or None


def _plan(look: Look, at: datetime) -> Plan:
    queue, key = _whose(look)
    title, back = f"Limit {named(queue, key)}?", look.link("limit", queue=queue, key=key)
    try:
        new = asked(look)
        new.check(key)
    except FlowError as error:
        return Plan(title, (), "", back, refused=f"{str(error)[:1].upper()}{str(error)[1:]}.")
    if queue not in look.source.model.limits(queue).fair:
        return Plan(title, (), "", look.link("limits"), refused="There is no fair queue of this name.")
    now = look.source.model.limit(queue, key)
    return Plan(title, (*_running_says(look, queue, key, now, new), *_rate_says(new), _SOON), "Set", back)


_SOON = ("", "It holds within a second, for all workers. What is not named stays as it is")


def _running_says(look: Look, queue: str, key: str | None, now: Limit | None, new: NewLimit) -> list[tuple[str, str]]:
    running, waiting = _counts(look, queue, key, now)
    says = [(waiting, "wait now")]
    if new.concurrency == 0:
        says.append((running, "run now, to their end. Nothing of it begins any more until the limit is raised"))
    elif new.concurrency is not None:
        each = " of each key" if key == "*" else ""
        says.append((running, f"run now, to their end; then at most {new.concurrency:,}{each} run at once"))
        says.append(("", "Only tasks that are acknowledged late (task_acks_late) count as running"))
    if new.weight is not None:
        says.append(("", f"It has {new.weight} turns for each one of another key"))
    return says


def _counts(look: Look, queue: str, key: str | None, now: Limit | None) -> tuple[str, str]:
    """What runs and what waits, as far as it is counted."""
    if now is not None:
        return f"{now.running:,}", f"{now.waiting:,}"
    if key is not None and key != "*":
        for one in look.source.model.standing(key):
            if one.queue == queue:
                return str(one.running), str(one.waiting)
        return "0", "0"
    found = look.source.model.queue(queue)
    return ("0", "0") if found is None else (str(found.queue.running), str(found.queue.waiting))


def _rate_says(new: NewLimit) -> list[tuple[str, str]]:
    if new.per_second is None:
        return []
    if not new.per_second:
        what = "Everything that is published is refused, with RateLimited" if new.refuse else "Nothing of it begins"
        return [("", f"A rate of 0 stops it: {what[:1].lower()}{what[1:]} until the rate is raised or removed")]
    many = rate(new.per_second)
    if new.refuse:
        return [
            ("", f"What is published beyond {many} is refused, with RateLimited; {new.burst or 1:,} at once may come")
        ]
    return [("", f"At most {many} begin, {new.burst or 1:,} at once after a pause; the others wait")]


def _set(look: Look, broker: Operations, step: Step) -> Done:
    queue, key = _whose(look)
    new = asked(look)
    broker.set_limit(
        queue,
        key=key,
        concurrency=new.concurrency,
        per_second=new.per_second,
        burst=new.burst,
        refuse=new.refuse,
        weight=new.weight,
    )
    return Done(f"The limits of {named(queue, key)} are set.", look.link("limits"))


def _remove_plan(look: Look, at: datetime) -> Plan:
    queue, key = _whose(look)
    title, back = f"Remove the limits of {named(queue, key)}?", look.link("limits")
    now = look.source.model.limit(queue, key)
    if now is None:
        return Plan(title, (), "", back, refused="It has no limits of its own.")
    says = [
        (f"{now.waiting:,}", "wait, and begin as workers have room"),
        (f"{now.running:,}", "run now, to their end"),
        ("", "What holds for the whole queue goes on" if key else "What holds for its keys goes on"),
    ]
    if key not in (None, "*"):
        says.append(("", "What holds for each key (*) holds for it from now on"))
    return Plan(title, tuple(says), "Remove", back, danger=True)


def _remove(look: Look, broker: Operations, step: Step) -> Done:
    queue, key = _whose(look)
    were = broker.remove_limit(queue, key=key)
    said = "are removed" if were else "were removed already"
    return Done(f"The limits of {named(queue, key)} {said}.", look.link("limits"), int(were))


LIMITS = {
    "limit": Action(OPERATORS, "queue", _plan, _set),
    "unlimit": Action(OPERATORS, "queue", _remove_plan, _remove),
}
