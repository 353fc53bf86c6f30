"""The commands `limits`, `fair` and `drain`: fair queues, and the limits of their keys."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from celery_postgres.database import limiting
from celery_postgres.database.limit_operations import check_acks
from celery_postgres.database.limit_store import Limit
from celery_postgres.database.limiting import NewLimit
from celery_postgres.tool.operator import Operator, OperatorError

#: Adds a command to a parser's subcommands.
Command = Callable[..., argparse.ArgumentParser]

_OF_TASKS = (
    "limits of a task's name do not exist: route the task to a queue of its own (task_routes) and limit that queue, or "
    "give its messages a key of their own (the header flow_key)"
)


def register(commands: Any, command: Command) -> None:
    """Add the commands to a parser's subcommands."""
    made = commands.add_parser("limits", help="list, set or remove limits of fair queues")
    words = made.add_subparsers(dest="limits", required=True, metavar="COMMAND")
    listed = command("list", _list, words)
    listed.add_argument("queue", nargs="?")
    # After the word too, as scripts write it.
    listed.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    given = command("set", _set, words)
    _of(given)
    given.add_argument("--concurrency", type=int, metavar="N", help="run at most N at once in all workers; 0 pauses")
    rate = given.add_mutually_exclusive_group()
    rate.add_argument("--per-second", type=float, metavar="X", help="start at most X a second; 0 pauses")
    rate.add_argument("--per-minute", type=float, metavar="X", help="start at most X a minute; 0 pauses")
    given.add_argument("--burst", type=int, metavar="B", help="with a rate: so many at once after a pause (1)")
    given.add_argument(
        "--refuse", action="store_true", default=None, help="with a rate: refuse at publish what is too much"
    )
    given.add_argument("--weight", type=int, metavar="W", help="W turns for each one of another key (1)")
    _of(command("remove", _remove, words))
    fair = command("fair", _fair)
    fair.add_argument("queue")
    fair.add_argument("state", nargs="?", choices=("on", "off"))
    drained = command("drain", _drain)
    drained.add_argument("queue")
    drained.add_argument("--key", required=True)
    drained.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="at most so long (%(default)s)")


def _of(made: argparse.ArgumentParser) -> None:
    made.add_argument("queue", nargs="?")
    made.add_argument("--task", metavar="NAME", help=argparse.SUPPRESS)
    made.add_argument("--key", help="whose limits; '*' for each key; without it, of the whole queue")


def _list(operator: Operator, given: argparse.Namespace) -> int:
    """List the limits, with what runs and waits of their keys. A limit without a key is of the whole queue."""
    operator.display.show(Limit, limiting.limits(operator.session, given.queue, key=None, cap=None))
    return 0


def _set(operator: Operator, given: argparse.Namespace) -> int:
    """Set limits of a key, of each key ('*') or of a whole queue, while everything runs. What is not named stays."""
    per_second = given.per_second
    if given.per_minute is not None:
        limiting.check_rate(given.per_minute, 60)
        per_second = given.per_minute / 60
    new = NewLimit(given.concurrency, per_second, given.burst, given.refuse, given.weight)
    check_acks(operator.app, given.concurrency)
    limit = limiting.set_limit(operator.session, _queue_of(given), given.key, new)
    late = "; its workers have to acknowledge late (task_acks_late)" if given.concurrency else ""
    operator.display.say(f"{_named(limit.queue, limit.key)}: {_told(limit)}{late}", **asdict(limit))
    return 0


def _remove(operator: Operator, given: argparse.Namespace) -> int:
    """Remove the limits of a key, of each key ('*') or of a whole queue."""
    queue = _queue_of(given)
    if not limiting.remove_limit(operator.session, queue, given.key):
        raise OperatorError(f"{_named(queue, given.key)} has no limits")
    operator.display.say(f"{_named(queue, given.key)} has no limits now", queue=queue, key=given.key)
    return 0


def _fair(operator: Operator, given: argparse.Namespace) -> int:
    """Show whether a queue is fair, or make it so (on) or not (off). Its messages follow, a thousand in a commit."""
    if given.state is None:
        fair = limiting.is_fair(operator.session, given.queue)
        operator.display.say(f"{given.queue} is {'' if fair else 'not '}fair", queue=given.queue, fair=fair)
        return 0
    fair = given.state == "on"
    count = limiting.set_fair(operator.session, given.queue, fair=fair)
    state = "fair" if fair else "no longer fair"
    operator.display.say(
        f"{given.queue} is {state}; converted {count} messages; consumers follow within 1.3 s",
        queue=given.queue,
        fair=fair,
        count=count,
    )
    return 0


def _drain(operator: Operator, given: argparse.Namespace) -> int:
    """Pause a key, with a concurrency of 0, and wait until nothing of it runs. Its waiting messages stay."""
    running = limiting.drain_key(operator.session, given.queue, given.key, given.wait)
    if running:
        raise OperatorError(
            f"{_named(given.queue, given.key)} is paused, and {running} still run after {given.wait:g} s"
        )
    operator.display.say(
        f"{_named(given.queue, given.key)} is paused, and nothing of it runs",
        queue=given.queue,
        key=given.key,
        running=0,
    )
    return 0


def purge(operator: Operator, given: argparse.Namespace) -> int:
    """Delete the waiting messages of a queue, or of one of its keys, scheduled ones included. Claimed messages stay."""
    if given.key is None:
        return operator.purge(given)
    noun = f"message of {_named(given.queue, given.key)}"
    if not given.yes:
        counts = limiting.counts_of_key(operator.session, given.queue, given.key)
        return operator.display.would("delete", counts.ready + counts.scheduled, noun)
    return operator.display.did("deleted", limiting.purge_key(operator.session, given.queue, given.key), noun)


def _queue_of(given: argparse.Namespace) -> str:
    if given.task is not None:
        raise OperatorError(_OF_TASKS)
    if given.queue is None:
        raise OperatorError("which queue? give its name")
    return str(given.queue)


def _named(queue: str, key: str | None) -> str:
    return queue if key is None else f"{queue} --key {key}"


def _told(limit: Limit) -> str:
    """Everything that holds now, in words."""
    parts = []
    if limit.concurrency is not None:
        parts.append(f"concurrency {limit.concurrency}" if limit.concurrency else "paused")
    if limit.per_second is not None:
        rate = f"{limit.per_second:g}/s" if limit.per_second >= 1 else f"{limit.per_second * 60:g}/min"
        rate = rate if limit.per_second else "refuses all" if limit.refuse else "paused (rate 0)"
        parts.append(f"{rate}, burst {limit.burst}{', refuses' if limit.refuse else ''}")
    if limit.weight is not None:
        parts.append(f"weight {limit.weight}")
    return ", ".join(parts)
