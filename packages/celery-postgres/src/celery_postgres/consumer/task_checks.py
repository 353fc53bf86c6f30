"""What a task must look like for Celery's worker."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from celery_postgres.consumer.field_rules import (
    FlawError,
    Rule,
    are_texts,
    check_fields,
    is_count,
    is_mapping,
    is_number,
    is_pair,
    is_printable,
    is_text,
)
from celery_postgres.consumer.signature_checks import EMBEDDED, MAX_RETRIES, check_embedded

#: Headers, properties and where it was sent: fields whose type alone shows whether they fit.
_BY_TYPE: dict[str, Rule] = {
    **dict.fromkeys(("shadow", "root_id", "parent_id", "group", "argsrepr", "kwargsrepr"), (is_text, "text")),
    **dict.fromkeys(("eta", "expires"), (is_text, "a time")),
    "stamps": (is_mapping, "an object"),
    "headers": (is_mapping, "an object"),
}
_BY_VALUE: dict[str, Rule] = {
    "timelimit": (is_pair, "a pair of numbers"),
    "retries": (is_count(MAX_RETRIES), "a number of times"),
    "replaced_task_nesting": (is_count(MAX_RETRIES), "a number of times"),
    "group_index": (is_count(MAX_RETRIES), "a position"),
    "stamped_headers": (are_texts, "a list of names"),
}
#: What nearly every task has, in the order of the rules; False and 0.0 are equal to 0, and no counts.
_NO_LIMITS, _NO_COUNTS = [None, None], [0, 0, None, None]
#: The combinations of types that have passed: a program's tasks have a few, and checking them again is 3 µs a task.
_fitting: set[tuple[type, ...]] = set()
_PROPERTIES: dict[str, Rule] = {"reply_to": (is_text, "text"), "correlation_id": (is_text, "text")}
_PRIORITY: dict[str, Rule] = {"priority": (is_number, "a number")}
_DELIVERY: dict[str, Rule] = {"exchange": (is_text, "text"), "routing_key": (is_text, "text")}
_NOTHING_EMBEDDED = dict.fromkeys(EMBEDDED)


@lru_cache(maxsize=1)
def _names_of_context() -> frozenset[str]:
    """Celery makes every header an attribute of the request. One that has the name of a method takes its place."""
    context: Any = sys.modules["celery.app.task"].Context
    return frozenset(name for name in dir(context) if name.startswith("_") or callable(getattr(context, name)))


def check_task(message: Any) -> None:
    """Check a task of protocol 1 or 2.

    Raises:
        FlawError: it has a form that Celery's worker does not know.
        Exception: its body cannot be decoded.
    """
    fields, args, kwargs, embedded = _parts(message.headers, message.decode())
    if not isinstance(fields.get("task"), str):
        raise FlawError("the name of its task is not text")
    if not is_printable(fields.get("id")):
        raise FlawError("its id is not printable text")
    _check_types(fields, message.properties, message.delivery_info)
    _check_values(fields)
    check_fields(message.properties, _PRIORITY, "its")
    if not isinstance(args, (list, tuple)):
        raise FlawError("its arguments are not a list")
    if not isinstance(kwargs, dict) or (kwargs and not all(isinstance(name, str) for name in kwargs)):
        raise FlawError("its keyword arguments are not an object")
    if embedded == _NOTHING_EMBEDDED and EMBEDDED.keys().isdisjoint(fields):
        return
    if embedded is not None:
        _check_names(embedded)
    # Celery takes what the body does not say from the headers.
    check_embedded({**{name: fields.get(name) for name in EMBEDDED}, **(embedded or {})})


def _parts(headers: Any, body: Any) -> tuple[dict[str, Any], Any, Any, Any]:
    """The fields of a task, its arguments, its keyword arguments, and what follows it."""
    if "task" in headers and not (isinstance(body, dict) and "args" in body):
        if not (isinstance(body, (list, tuple)) and len(body) == 3):
            raise FlawError("its body is not a list of arguments, keyword arguments and what follows")
        return (headers, *body)
    # Protocol 1, or headers of 2 with a body of 1.
    if not isinstance(body, dict) or not isinstance(headers, dict):
        raise FlawError("it is not a task")
    embedded = {name: body.get(name) for name in EMBEDDED}
    return {**body, **headers}, body.get("args", ()), body.get("kwargs", {}), embedded


def _check_types(fields: dict[str, Any], properties: dict[str, Any], delivery: dict[str, Any]) -> None:
    values = *map(fields.get, _BY_TYPE), *map(properties.get, _PROPERTIES), *map(delivery.get, _DELIVERY)
    types = tuple(map(type, values))
    if types not in _fitting:
        check_fields(fields, _BY_TYPE, "its")
        check_fields(properties, _PROPERTIES, "its")
        check_fields(delivery, _DELIVERY, "its")
        _fitting.add(types)


def _check_values(fields: dict[str, Any]) -> None:
    limits, *counts = map(fields.get, _BY_VALUE)
    if limits != _NO_LIMITS or counts != _NO_COUNTS or not type(counts[0]) is type(counts[1]) is int:
        check_fields(fields, _BY_VALUE, "its")
    if not _names_of_context().isdisjoint(fields):
        raise FlawError("a header has the name of a method of Celery's")


def _check_names(embedded: Any) -> None:
    if not isinstance(embedded, dict):
        raise FlawError("what follows it is not an object")
    unknown = embedded.keys() - EMBEDDED
    if unknown and not unknown.isdisjoint(dir(sys.modules["celery.app.task"].Context)):
        raise FlawError("what follows it has the name of something else")
