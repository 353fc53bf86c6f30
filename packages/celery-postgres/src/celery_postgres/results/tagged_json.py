"""Values as JSON: Kombu's, which Celery 5.7 stores, plus tags of this package's own for what Kombu cannot represent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from celery.exceptions import SecurityError
from kombu.utils import json

from celery_postgres.results.hash_guard import HashCounter, make_set

#: JSON's own types, and those that Kombu tags.
_UNTAGGED = frozenset({type(None), bool, float, str, bytes, date, datetime, time, Decimal, UUID})
_JSONS = frozenset({int, list, dict})
#: Python converts at most 4,300 decimal digits; longer integers are written in hexadecimal.
_LONGEST_BITS = 14_000
#: Characters of an unknown marker that go into the error's text.
_LONGEST_MARKER = 100
_TAG, _VALUE = "__type__", "__value__"


class NotExactError(ValueError):
    """Kombu's JSON cannot represent a value exactly."""


class NotPickledError(Exception):
    """A value has no form but JSON."""


class Registered:
    """The JSON of a value whose type the program has registered with Kombu (`register_type`), by its own marker.

    A pickle would name the type, which no reader loads; by the marker a reader finds what its program has registered.
    """

    __slots__ = ("form",)

    def __init__(self, form: dict[str, Any]) -> None:
        self.form = form

    def __reduce__(self) -> Any:
        raise NotPickledError


def dumps(value: Any, tags: bool) -> bytes:
    """A plain value as JSON.

    Args:
        tags: use this package's own tags, which nothing else reads.

    Raises:
        NotExactError: without tags it would be read as another value.
    """
    return json.dumps(_tagged(value, tags)).encode()


def loads(data: bytes) -> Any:
    """
    Raises:
        Exception: it is not JSON, or a tagged value does not fit its tag.
    """
    return json.loads(data, object_hook=_untagged)


def plain(value: Any) -> Any:
    """What Kombu's JSON makes of a value, read again; values of registered types as `Registered`.

    Raises:
        Exception: JSON cannot represent it.
    """
    return json.loads(json.dumps(value), object_hook=_unless_registered)


def _unless_registered(value: dict[str, Any]) -> Any:
    made = json.object_hook(value)
    return made if type(made) in _UNTAGGED or type(made) in _JSONS else Registered(value)


def _tagged(value: Any, tags: bool) -> Any:
    kind = type(value)
    if kind in _UNTAGGED or (kind is int and value.bit_length() <= _LONGEST_BITS):
        return value
    if kind is list:
        return [_tagged(one, tags) for one in value]
    if kind is Registered:
        return value.form
    if kind is dict and all(type(key) is str for key in value) and value.keys() != {_TAG, _VALUE}:
        return {key: _tagged(one, tags) for key, one in value.items()}
    if not tags:
        raise NotExactError
    content: Any
    if kind is int:
        content = f"{value:x}"
    elif kind is timedelta:
        content = [value.days, value.seconds, value.microseconds]
    elif kind is dict:
        content = [[_tagged(key, tags), _tagged(one, tags)] for key, one in value.items()]
    else:
        content = [_tagged(one, tags) for one in value]
    return {_TAG: f"py:{kind.__name__}", _VALUE: content}


def _dict(pairs: list[list[Any]]) -> dict[Any, Any]:
    HashCounter().add(key for key, _ in pairs)
    return {key: value for key, value in pairs}  # noqa: C416  # a pair of another length must be an error


_MADE: dict[str, Callable[[Any], Any]] = {
    "py:int": lambda content: int(content, 16),
    "py:timedelta": lambda content: timedelta(*content),
    "py:tuple": lambda content: tuple(content),
    "py:set": lambda content: make_set(set, content),
    "py:frozenset": lambda content: make_set(frozenset, content),
    "py:dict": _dict,
}


def _untagged(value: dict[str, Any]) -> Any:
    if value.keys() == {_TAG, _VALUE}:
        make = _MADE.get(value[_TAG]) if isinstance(value[_TAG], str) else None
        if make is not None:
            return make(value[_VALUE])
    try:
        return json.object_hook(value)
    except ValueError:
        shown = ascii(value[_TAG])[:_LONGEST_MARKER]
        raise SecurityError(
            f"a stored result has a value marked {shown}, which this program cannot read: register its type with Kombu"
        ) from None
