"""Values as JSON: Kombu's, which Celery 5.7 stores, and what that has no form for under marks of our own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from kombu.utils import json

from celery_postgres.results.hash_guard import Counted, made

#: JSON's own, and what Kombu marks.
_AS_THEY_ARE = frozenset({type(None), bool, float, str, bytes, date, datetime, time, Decimal, UUID})
#: Python converts 4,300 decimal digits at most; longer integers are written in hexadecimal.
_LONGEST_BITS = 14_000
_MARK, _VALUE = "__type__", "__value__"


class NotExactError(ValueError):
    """Kombu's JSON has no form for a value."""


def dumps(value: Any, marks: bool) -> bytes:
    """A plain value as JSON. `marks`: with our own, which only this package reads.

    Raises:
        NotExactError: without them it would be read as another one.
    """
    return json.dumps(_form(value, marks)).encode()


def loads(data: bytes) -> Any:
    """
    Raises:
        Exception: it is not JSON, or what is marked is not what the mark says.
    """
    return json.loads(data, object_hook=_unmarked)


def _form(value: Any, marks: bool) -> Any:
    kind = type(value)
    if kind in _AS_THEY_ARE or (kind is int and value.bit_length() <= _LONGEST_BITS):
        return value
    if kind is list:
        return [_form(one, marks) for one in value]
    if kind is dict and all(type(key) is str for key in value) and value.keys() != {_MARK, _VALUE}:
        return {key: _form(one, marks) for key, one in value.items()}
    if not marks:
        raise NotExactError
    content: Any
    if kind is int:
        content = f"{value:x}"
    elif kind is timedelta:
        content = [value.days, value.seconds, value.microseconds]
    elif kind is dict:
        content = [[_form(key, marks), _form(one, marks)] for key, one in value.items()]
    else:
        content = [_form(one, marks) for one in value]
    return {_MARK: f"py:{kind.__name__}", _VALUE: content}


def _dict(pairs: list[list[Any]]) -> dict[Any, Any]:
    Counted().add(key for key, _ in pairs)
    return {key: value for key, value in pairs}  # noqa: C416  # a pair of other length is an error


_MADE: dict[str, Callable[[Any], Any]] = {
    "py:int": lambda content: int(content, 16),
    "py:timedelta": lambda content: timedelta(*content),
    "py:tuple": lambda content: tuple(content),
    "py:set": lambda content: made(set, content),
    "py:frozenset": lambda content: made(frozenset, content),
    "py:dict": _dict,
}


def _unmarked(value: dict[str, Any]) -> Any:
    if value.keys() == {_MARK, _VALUE}:
        make = _MADE.get(value[_MARK]) if isinstance(value[_MARK], str) else None
        if make is not None:
            return make(value[_VALUE])
    return json.object_hook(value)
