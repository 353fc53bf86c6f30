"""Limits: what the keys of fair queues may use, and use now. A tenant sees its own."""

from __future__ import annotations

from typing import Any

from celery_postgres.console.actions.limits import named
from celery_postgres.console.formatting import duration, rate
from celery_postgres.console.looking import Look, NotThereError, Page
from celery_postgres.database.keys import uuid_or_none
from celery_postgres.readmodel import BusyKey, CursorError, LimitRow, Standing

#: A wait from here on is told on the first page of a tenant.
SLOW_S = 60.0
_FULL = 100


def limits(look: Look) -> Page:
    """All limits, with the busiest keys; of a tenant, how it stands in each queue."""
    if look.viewer.tenant is not None:
        rows = [
            standing_row(one, "your") for one in look.source.model.standing(str(look.viewer.tenant), look.viewer.tenant)
        ]
        return Page("limits_own.html", {"rows": rows})
    queue, key = look.asked("queue") or None, look.asked("key")
    try:
        found = look.source.model.limits(queue, look.asked("after") or None)
    except CursorError:
        raise NotThereError("This page does not exist any more. Start from the first.") from None
    return Page(
        "limits.html",
        {
            "queue": queue,
            "key": key,
            "fair": found.fair,
            "stands": [standing_row(one) for one in look.source.model.standing(key, fair=found.fair)] if key else [],
            "of_queues": [_row(look, row) for row in found.of_queues],
            "busiest": [_busy(look, one) for one in found.busiest],
            "of_keys": [_row(look, row) for row in found.of_keys],
            "more_link": look.again("limits", after=found.next) if found.next else "",
        },
    )


def limit(look: Look) -> Page:
    """The form for the limits of a key, of each key or of a whole queue."""
    queue, key = look.asked("queue"), look.asked("key") or None
    found = look.source.model.limits(queue or None)
    if queue not in found.fair:
        raise NotThereError("There is no fair queue of this name: limits hold in fair queues alone.")
    now = look.source.model.limit(queue, key)
    holds = "" if now is None else _says(now.concurrency, now.per_second, now.burst, now.refuse, now.weight)
    return Page("limit.html", {"whose": named(queue, key), "queue": queue, "key": key, "holds": holds})


def _row(look: Look, row: LimitRow) -> dict[str, Any]:
    key = row.key or ""
    return {
        "queue": row.queue,
        "key": row.key,
        "says": _says(None, row.per_second, row.burst, row.refuse, row.weight),
        "change": look.link("limit", queue=row.queue, key=key) if look.acts else "",
        "remove": look.link("act", do="unlimit", queue=row.queue, key=key) if look.acts else "",
        **_use(row, each=key == "*"),
    }


def _busy(look: Look, one: BusyKey) -> dict[str, Any]:
    return {
        "queue": one.queue,
        "key": one.key,
        "hash": one.key_hash,
        "link": look.link("tasks", tenant=one.key, queue=one.queue) if _is_tenant(one.key) else "",
        "says": _says(None, one.per_second, one.burst or 1, one.refuse, None),
        "change": look.link("limit", queue=one.queue, key=one.key) if look.acts and one.key else "",
        **_use(one),
    }


def _is_tenant(key: str | None) -> bool:
    return key is not None and uuid_or_none(key) == key


def _use(one: LimitRow | BusyKey | Standing, *, each: bool = False) -> dict[str, Any]:
    """What of a limit is used. A limit of each key is not compared with what runs of all keys together."""
    most = one.concurrency
    reached = not each and most is not None and one.running.number >= most
    closed = bool(one.opens_in_s) and not one.refuse
    return {
        "running": one.running,
        "waiting": one.waiting,
        "most": most,
        "each": each,
        "share": None if each or not most else min(_FULL, round(one.running.number * _FULL / most)),
        "paused": most == 0 or (one.per_second == 0 and not one.refuse),
        "reached": reached and bool(one.waiting),
        "opens": duration(one.opens_in_s) if closed else "",
    }


def _says(
    concurrency: int | None, per_second: float | None, burst: int | None, refuse: bool | None, weight: int | None
) -> str:
    parts = []
    if concurrency is not None:
        parts.append(f"{concurrency:,} at once" if concurrency else "paused")
    if per_second is not None:
        parts.append(f"{rate(per_second)}, {burst or 1:,} at once after a pause{', else refused' if refuse else ''}")
    if weight is not None:
        parts.append(f"weight {weight}")
    return "; ".join(parts)


def standing_row(one: Standing, whose: str = "its") -> dict[str, Any]:
    """How a key stands in a queue, with what that means."""
    return {
        "queue": one.queue,
        "fair": one.fair,
        "waits": one.waits,
        **_use(one),
        "says": _says(None, one.per_second, one.burst, one.refuse, None),
        "means": means(one, whose),
        "tone": "warn" if one.cause else "",
    }


def means(one: Standing, whose: str) -> str:
    """Whether a new task waits, for how long, and whether that is the key's own limit."""
    wait = f" New tasks begin after about {duration(one.expected_s)}." if one.expected_s else ""
    match one.cause:
        case "queue":
            return "An operator has paused the queue: nothing begins until it is resumed, however long that is."
        case "paused":
            return "An operator has paused them: nothing begins until that limit is raised."
        case "concurrency":
            return f"It is {whose} limit: {one.running} of {one.concurrency:,} places are in use.{wait}"
        case "rate":
            opens = duration(one.opens_in_s)
            return f"It is {whose} limit: {rate(one.per_second or 0)}. The next begins in {opens}.{wait}"
    if one.concurrency is not None and one.waiting:
        return f"It is not {whose} limit: {one.running} of {one.concurrency:,} places are in use.{wait}"
    return wait.strip()


def slow(look: Look) -> list[dict[str, str]]:
    """What a tenant's first page says of queues in which its tasks wait long, and of limits that it has reached."""
    tenant = look.viewer.tenant
    if tenant is None:
        return []
    found = look.source.model.standing(str(tenant), tenant)
    return [
        {"text": _headline(one), "more": means(one, "your"), "tone": "warn"}
        for one in sorted(found, key=lambda one: -(one.expected_s or 0.0))
        if one.cause or (one.expected_s or 0.0) >= SLOW_S
    ][:3]


def _headline(one: Standing) -> str:
    match one.cause:
        case "queue":
            return f"Queue {one.queue} is paused"
        case "paused":
            return f"Your tasks of queue {one.queue} are paused"
        case "concurrency" | "rate":
            return f"Your tasks of queue {one.queue} wait for your own limit"
    return f"Queue {one.queue} is slow at the moment: new tasks begin after about {duration(one.expected_s)}"
