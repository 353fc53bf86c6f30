"""The payload of a message, written and read."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

from kombu.utils import json as kombu_json

from celery_postgres.database.dead_letter import DeadLetterKind, DeadLetterReason, FlawedMessageError

#: Members of all lists and objects of a text together. 64 MB of empty lists, which are 4 kB as bz2, take 3.5 GB to
#: parse; a million members take 0.25 GB at most.
MAX_MEMBERS = 1_000_000
_STRINGS = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
#: What Kombu writes into an object that stands for a value of another type.
_MARK = '"__type__"'
#: The headers and properties that may have the id of the task.
IDS = frozenset({"id", "root_id", "correlation_id"})
#: Those that may have the ids of tasks and groups.
_ALL_IDS = IDS | {"parent_id", "group"}


def encode(message: dict[str, Any]) -> str:
    """The payload of a message, in stock's format: JSON in ASCII. Values that plain JSON cannot express are written as
    Kombu writes them, as objects; but those ids of a task that are UUIDs as texts, by which workers know them."""
    try:
        return json.dumps(message)
    except TypeError:
        parts = ("headers", "properties") if "task" in (message.get("headers") or {}) else ()
        changed = {
            part: {name: plain(value) if name in _ALL_IDS else value for name, value in message[part].items()}
            for part in parts
        }
        return str(kombu_json.dumps({**message, **changed}))


def plain(value: Any) -> Any:
    """The value; an id as its text."""
    return str(value) if isinstance(value, UUID) else value


def decode(payload: str, types: bool = False) -> dict[str, Any]:
    """The message of a payload.

    Args:
        types: make the values of headers and properties what they were before `encode`. An object whose type is not
            known here, or whose value does not fit its type, stays an object.

    Raises:
        FlawedMessageError: the payload is not a Kombu message. The text says what is wrong and quotes nothing.
    """
    if has_too_many_members(payload):
        raise _unreadable(f"a Kombu message: it has more than {MAX_MEMBERS} members")
    try:
        # In a body, which is a text in this JSON, the mark's quotes are escaped.
        typed = types and _MARK in payload
        message = json.loads(payload, object_hook=_typed if typed else None)
    except RecursionError:
        raise _unreadable("a Kombu message: it is nested too deeply") from None
    except ValueError:
        raise _unreadable("JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("properties"), dict):
        raise _unreadable("a Kombu message: no properties")
    if not isinstance(message["properties"].get("delivery_info", {}), dict):
        raise _unreadable("a Kombu message: delivery_info is not an object")
    if not isinstance(message.get("headers") or {}, dict):
        raise _unreadable("a Kombu message: headers are not an object")
    if typed:  # stock Kombu's producers write an id that is a UUID as such
        for part in (message.get("headers") or {}), message["properties"]:
            part.update({name: plain(part[name]) for name in _ALL_IDS & part.keys()})
    return message


def _typed(value: dict[str, Any]) -> Any:
    try:
        return kombu_json.object_hook(value)
    except Exception:  # a decoder may be the program's own
        return value


def _unreadable(what: str) -> FlawedMessageError:
    return FlawedMessageError(DeadLetterReason(DeadLetterKind.UNREADABLE, what))


def has_too_many_members(text: str) -> bool:
    """Whether a JSON text has more than `MAX_MEMBERS` members. Does not parse it."""
    if len(text) <= MAX_MEMBERS or _separators(text) <= MAX_MEMBERS:  # nearly every text is shorter than that
        return False
    return _separators(_STRINGS.sub("", text)) > MAX_MEMBERS


def _separators(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")
