"""Who used the tool for what: each command that changes something is a row of `console_action`."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
from collections.abc import Callable
from typing import Any

from celery_postgres.database.action_store import ActionStore
from celery_postgres.errors import FlowError
from celery_postgres.tool.operator import Operator, OperatorError

#: The commands that change something, in the console's words.
_ACTIONS = {
    "pause": "pause",
    "resume": "resume",
    "purge": "purge",
    "move": "move",
    "cancel": "revoke",
    "stop": "block",
    "allow": "unblock",
    "release": "release",
    "taken": "delete taken",
    "dead requeue": "requeue",
    "dead purge": "discard",
    "dead show": "read",
    "limits set": "set limits",
    "limits remove": "remove limits",
    "fair": "set fair",
    "drain": "drain",
    "drain-worker": "drain-worker",
    "run-now": "run-now",
    "disable": "disable",
    "enable": "enable",
}
#: Those that change one thing, or fail.
_SINGLE = frozenset(
    {
        *("pause", "resume", "block", "unblock", "set limits", "remove limits", "set fair"),
        *("drain-worker", "run-now", "disable", "enable", "read"),
    }
)
_SUBJECTS = ("queue", "task", "task_id", "consumer", "entry", "id")
#: What is kept of a command's words. Not the URL of another database.
_CONDITIONS = (
    *("ids", "queue", "task", "reason", "older_than", "all", "key", "state"),
    *("concurrency", "per_second", "per_minute", "burst", "refuse", "weight"),
)
_MOST_IDS = 20


def run(operator: Operator, given: argparse.Namespace, method: Callable[[Operator, argparse.Namespace], int]) -> int:
    """Run a command, and record it if it changes something."""
    action = _action(given)
    if action is None:
        return method(operator, given)
    with ActionStore(operator.session).recorded(
        source="tool",
        actor=actor(),
        action=action,
        subject=_subject(given),
        conditions=_conditions(given),
        planned=1 if action in _SINGLE else None,
    ) as record:
        try:
            status = method(operator, given)
        except (OperatorError, FlowError) as error:
            record.outcome = f"failed: {error}"
            raise
        finally:
            record.done = operator.display.count
        if action in _SINGLE and status == 0:
            record.done = 1
        record.outcome = operator.display.line
    return status


def actor() -> str:
    """The user of this process and the machine, as far as they have names."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a line in passwd
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _action(given: argparse.Namespace) -> str | None:
    """What the command is recorded as; None for one that only looks, and for a dry run."""
    words = [given.command, *(getattr(given, name) for name in ("dead", "limits") if getattr(given, name, None))]
    action = _ACTIONS.get(" ".join(word for word in words if isinstance(word, str)))
    dry = not getattr(given, "yes", True)
    looks = {
        "delete taken": not getattr(given, "delete", True),
        "read": not getattr(given, "payload", True),
        "set fair": getattr(given, "state", "on") is None,
    }
    return None if action is None or dry or looks.get(action, False) else action


def _subject(given: argparse.Namespace) -> str:
    found = (getattr(given, name, None) for name in _SUBJECTS)
    subject = next((str(one) for one in found if one is not None), "")
    key = getattr(given, "key", None)
    return f"{subject}, key {key}" if key else subject


def _conditions(given: argparse.Namespace) -> dict[str, Any]:
    found = {name: getattr(given, name, None) for name in _CONDITIONS}
    if found["ids"]:
        found["ids"] = found["ids"][:_MOST_IDS]
    return {name: value for name, value in found.items() if value not in (None, [], False)}
