"""The rules by which workers, beats and the schedule need attention."""

from __future__ import annotations

from celery_postgres.database.fleet_view_store import Worker
from celery_postgres.readmodel import thresholds
from celery_postgres.readmodel.observed import Observed, severity_of
from celery_postgres.readmodel.problem import Problem, Severity
from celery_postgres.readmodel.words import counted, duration, listed


def lost(observed: Observed) -> Problem | None:
    """A worker is gone, and what it had claimed is not released yet."""
    gone = [one for one in observed.workers if one.lost and one.claimed.number > thresholds.LOST.warning]
    if not gone:
        return _released(observed)
    first = max(gone, key=lambda one: one.claimed.number)
    name = first.name or first.hostname or f"number {first.id}"
    claimed = f"{first.claimed} {'task' if first.claimed.number == 1 else 'tasks'}"
    others = f" {counted(len(gone) - 1, 'other worker is', 'other workers are')} lost too." if len(gone) > 1 else ""
    since = first.oldest_claim_at
    age_s = None if since is None else max(0.0, (observed.at - since).total_seconds())
    return Problem(
        "lost",
        Severity.WARNING,
        f"Worker {name} is lost and had claimed {claimed}",
        f"Another worker releases them within half a minute, if one lives.{others}",
        age_s,
        "worker",
        str(first.id),
    )


def _released(observed: Observed) -> Problem | None:
    """A worker was lost in the last hour, and others have released what it had claimed."""
    ages = {one.id: (observed.at - one.lost_at).total_seconds() for one in observed.workers if one.lost_at is not None}
    gone = [one for one in observed.workers if ages.get(one.id, thresholds.LOST_WITHIN_S) < thresholds.LOST_WITHIN_S]
    if not gone:
        return None
    first = min(gone, key=lambda one: ages[one.id])
    others = f" {counted(len(gone) - 1, 'other worker was', 'other workers were')} lost too." if len(gone) > 1 else ""
    return Problem(
        "lost",
        Severity.WARNING,
        f"Worker {first.name or first.hostname} was lost {duration(ages[first.id])} ago{_for_good(gone)}",
        f"{_what_of(first)}{others}",
        max(0.0, ages[first.id]),
        "worker",
        str(first.id),
    )


def _for_good(gone: list[Worker]) -> str:
    count = sum(len(one.lost_tasks) for one in gone)
    return f", and {counted(count, 'task')} with {'it' if len(gone) == 1 else 'it and others'}" if count else ""


def _what_of(worker: Worker) -> str:
    """What became of its tasks."""
    told = []
    if worker.lost_tasks:
        names = listed(sorted({one.task for one in worker.lost_tasks}))
        told.append(f"What it had acknowledged before it ran does not run again: {names}.")
    if worker.released or not told:
        released = f"the {counted(worker.released, 'task')} that it had claimed" if worker.released else ""
        told.append(f"Others have released {released}." if released else "It had claimed nothing.")
    return " ".join(told)


def beatless(observed: Observed) -> Problem | None:
    """A beat ran in the last day, and none runs now."""
    seen_s = min((one.seen_s for one in observed.beats if one.entries), default=None)
    if seen_s is None or seen_s <= thresholds.BEATLESS_S.warning:
        return None
    last = min(observed.beats, key=lambda one: one.seen_s)
    how = "it was stopped" if last.stopped_at is not None else "it was killed, or does not reach the database"
    return Problem(
        "beatless",
        severity_of(seen_s, thresholds.BEATLESS_S),
        f"No beat has run for {duration(seen_s)}: nothing of the schedule is sent",
        f"The last one was on {last.hostname}; {how}. Start celery beat.",
        seen_s,
        "schedule",
    )


def overdue(observed: Observed) -> Problem | None:
    """An entry of the schedule should have been sent."""
    beyond = sorted(
        (one for one in observed.late if one.overdue_s > thresholds.OVERDUE_S.warning), key=lambda one: -one.overdue_s
    )
    if not beyond:
        return None
    first = beyond[0]
    others = f" Also {listed([one.entry for one in beyond[1:]])}." if len(beyond) > 1 else ""
    return Problem(
        "overdue",
        severity_of(first.overdue_s, thresholds.OVERDUE_S),
        f"Schedule {first.entry} is {duration(first.overdue_s)} late",
        f"{_why_late(observed)}{others}",
        first.overdue_s,
        "schedule",
        first.entry,
    )


def _why_late(observed: Observed) -> str:
    if any(one.seen_s <= thresholds.BEATLESS_S.warning for one in observed.beats):
        return "A beat runs, and has not sent it: its log says why."
    return "No beat has sent it: see whether one runs."
