"""Showing what a task was given, returned and said when it failed, to those who may see it."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

from celery.exceptions import SecurityError

from celery_postgres.console import tracebacks
from celery_postgres.console.action import OPERATORS, Action, Done, Plan, Step
from celery_postgres.console.actions.tasks import own
from celery_postgres.console.looking import Look
from celery_postgres.operations import Operations, load_result
from celery_postgres.readmodel import Task

#: Characters of a value that are shown.
_LONGEST = 20_000


def _plan(look: Look, at: datetime) -> Plan:
    found, back = own(look), look.link("task", id=look.asked("id"))
    title = f"Show the values of {found.row.name or 'this task'}?"
    return Plan(title, (("", "That you have seen them is recorded"),), "Show", back)


def _read(look: Look, broker: Operations, step: Step) -> Done:
    found = own(look)
    arguments, keywords = _arguments(look.source.model.payload(look.asked("id")))
    shown = {
        "task": {"id": look.asked("id"), "name": found.row.name},
        "values": [
            one for one in (("Arguments", arguments), ("Keyword arguments", keywords), _result(found)) if one[1]
        ],
        "frames": tracebacks.whole(found.traceback or ""),
    }
    return Done("Its values were shown.", look.link("task", id=look.asked("id")), shown=shown)


def _arguments(payload: str | None) -> tuple[str, str]:
    """The arguments as JSON, if the message is still there and its body is JSON that is not compressed."""
    if payload is None:
        return "Gone with the message, or longer than a megabyte", ""
    try:
        message = json.loads(payload)
        body = message["body"]
        text = base64.b64decode(body) if message["properties"].get("body_encoding") == "base64" else body
        args, kwargs, *_ = json.loads(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "Not JSON, or compressed: not read", ""
    return _written(args), _written(kwargs) if kwargs else ""


def _result(found: Task) -> tuple[str, str]:
    if found.result is None:
        return "Result", ""
    try:
        value = load_result(found.result)
    except (SecurityError, ValueError, TypeError, RecursionError):
        return "Result", "Neither JSON nor a pickle of plain values: not read"
    return ("Exception" if found.traceback else "Result"), _written(value)


def _written(value: Any) -> str:
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… and {len(text) - _LONGEST:,} characters more"


PAYLOADS = {"read": Action(OPERATORS, "id", _plan, _read, allowed=lambda viewer: viewer.payloads)}
