"""The commands of workers and schedules."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from celery_postgres.database.fleet_store import FleetStore
from celery_postgres.readmodel import Schedule, Worker
from celery_postgres.tool.operator import Operator, OperatorError

#: Declares a command: its name and the function that carries it out.
Declare = Callable[[str, Callable[[Operator, argparse.Namespace], int]], argparse.ArgumentParser]


def register(command: Declare) -> None:
    """Declare the commands.

    Args:
        command: declares one.
    """
    command("workers", workers)
    drained = command("drain-worker", drain_worker)
    drained.add_argument("consumer", type=int, metavar="ID", help="as `workers` lists it")
    drained.add_argument("--yes", action="store_true", help="do it; without this, a dry run")
    command("schedules", schedules)
    sent = command("run-now", run_now)
    sent.add_argument("entry")
    sent.add_argument("--yes", action="store_true", help="do it; without this, a dry run")
    for name, method in (("disable", disable), ("enable", enable)):
        command(name, method).add_argument("entry")


@dataclass(frozen=True, slots=True)
class _WorkerLine:
    id: int
    worker: str | None
    state: str
    pool: str | None
    busy: int | None
    slots: int | None
    longest: str | None
    for_s: float | None
    heartbeat_s: float | None
    version: str | None
    queues: list[str]


@dataclass(frozen=True, slots=True)
class _ScheduleLine:
    entry: str
    task: str | None
    schedule: str | None
    enabled: bool
    last_run_at: datetime
    runs: int
    sent_at: datetime | None
    last_state: str | None
    last_task_id: str | None
    next_run_at: datetime | None
    overdue_s: float | None


def workers(operator: Operator, given: argparse.Namespace) -> int:
    """List the workers, the lost ones of a day first, each with the task that it has run for the longest. A worker of
    an older release, and other programs that consume, report nothing."""
    now = datetime.now(UTC)
    operator.display.show(_WorkerLine, [_worker_line(one, now) for one in operator.model.workers()])
    return 0


def _worker_line(one: Worker, now: datetime) -> _WorkerLine:
    longest = one.running[0] if one.running and not one.lost else None
    seen_at = one.seen_at or one.lost_at
    return _WorkerLine(
        one.id,
        one.name or one.hostname,
        "lost" if one.lost else "draining" if one.draining else "up",
        one.pool,
        one.busy,
        one.slots,
        longest.task if longest else None,
        round((now - longest.since).total_seconds(), 1) if longest else None,
        round((now - seen_at).total_seconds(), 1) if seen_at else None,
        one.app_version,
        [queue for queue in one.queues if not queue.endswith(".pidbox")],
    )


def drain_worker(operator: Operator, given: argparse.Namespace) -> int:
    """Have a worker end when the tasks that it runs have ended, as after SIGTERM. A supervisor may start it again."""
    found = {one.id: one for one in operator.model.workers()}.get(given.consumer)
    if found is None or found.lost:
        raise OperatorError(f"there is no worker {given.consumer}: `workers` lists their ids")
    if found.name is None:
        raise OperatorError(
            f"worker {given.consumer} does not report itself, so it would not see this: send it SIGTERM"
        )
    if not given.yes:
        return operator.display.would("drain", 1, f"worker of {found.name}", f"; {found.busy or 0} tasks run in it")
    if not FleetStore(operator.session).drain(given.consumer):
        raise OperatorError(f"there is no worker {given.consumer} any more")
    return operator.display.did("told to end", 1, f"worker of {found.name}", "; it follows within 1.3 s")


def schedules(operator: Operator, given: argparse.Namespace) -> int:
    """List the entries of the schedule that a beat of this package has seen: what each sends and when, what became of
    the last task, when the next is due and how late it is."""
    operator.display.show(_ScheduleLine, [_schedule_line(one) for one in operator.model.schedules()])
    if not operator.display.is_json:
        for beat in operator.model.beats():
            state = "stopped" if beat.stopped_at else f"seen {beat.seen_s:.1f} s ago"
            operator.display.say(f"beat {beat.hostname}, process {beat.pid}: {state}, {beat.entries} entries")
    return 0


def _schedule_line(one: Schedule) -> _ScheduleLine:
    return _ScheduleLine(
        *(one.entry, one.task, one.schedule, one.enabled, one.last_run_at, one.runs, one.sent_at),
        None if one.last is None else one.last.state,
        *(one.last_task_id, one.next_run_at, one.overdue_s),
    )


def run_now(operator: Operator, given: argparse.Namespace) -> int:
    """Have a beat send an entry of the schedule once, within 5 s. Its schedule stays as it is."""
    _known(operator, given.entry)
    if not given.yes:
        return operator.display.would("send", 1, f"run of {given.entry}")
    if not FleetStore(operator.session).request(given.entry):
        raise OperatorError(f"there is no entry {given.entry!r} any more")
    alive = any(one.seen_s < 30 for one in operator.model.beats())
    when = "a beat sends it within 5 s" if alive else "no beat lives: it is sent when one starts"
    operator.display.say(f"{given.entry} is asked for; {when}", entry=given.entry, beat=alive)
    return 0


def disable(operator: Operator, given: argparse.Namespace) -> int:
    """Let no beat send an entry of the schedule, until `enable`. Beats of an older release do."""
    _known(operator, given.entry)
    if not FleetStore(operator.session).disable(given.entry):
        raise OperatorError(f"{given.entry!r} is disabled already")
    operator.display.say(f"{given.entry} is disabled", entry=given.entry, enabled=False)
    return 0


def enable(operator: Operator, given: argparse.Namespace) -> int:
    """Let beats send an entry again, within 5 s. Its next run counts from now: what was due is not made up for."""
    _known(operator, given.entry)
    if not FleetStore(operator.session).enable(given.entry):
        raise OperatorError(f"{given.entry!r} is not disabled")
    operator.display.say(f"{given.entry} is enabled", entry=given.entry, enabled=True)
    return 0


def _known(operator: Operator, entry: str) -> Schedule:
    for one in operator.model.schedules():
        if one.entry == entry:
            return one
    raise OperatorError(f"there is no entry {entry!r}: `schedules` lists those that a beat has seen")
