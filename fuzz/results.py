"""Stored results: any bytes are read as plain values or refused, and reading executes nothing."""

from __future__ import annotations

import datetime
import pickle
import sys
import uuid
from decimal import Decimal
from typing import Any

from celery.exceptions import SecurityError
from celery.result import AsyncResult, GroupResult

from celery_postgres.errors import UnstorableResultError
from celery_postgres.results.serializer import dump, load, load_group
from fuzz.trap import nothing_executed

#: The types that reading may return.
PLAIN = (
    type(None), bool, int, float, str, bytes, bytearray, list, dict, tuple, set, frozenset, datetime.date,
    datetime.time, datetime.timedelta, datetime.timezone, Decimal, uuid.UUID,
)  # fmt: skip
#: The classes that a pickle may name and could try to change.
_WATCHED = (datetime.date, datetime.datetime, datetime.timezone, Decimal, uuid.UUID, set, frozenset, GroupResult,
            AsyncResult)  # fmt: skip
_VALUE = {
    "a": [1, 2.5, None, True, b"x", "é", (1, (2,)), {3}, frozenset({4}), 1 << 80],
    "t": [
        datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
        datetime.timedelta(1),
        Decimal("1.10"),
        uuid.UUID(int=7),
    ],
}


def two_equal_sets(levels: int) -> bytes:
    """A dict with two keys that are equal and not identical; each level of a key contains the level below twice."""
    made, position = b"\x80\x04\x8c\x08builtins\x8c\x09frozenset\x93\x94}\x94", 1
    for _ in range(2):
        made, position = made + b"h\x00)R\x94", position + 1
        for _ in range(levels):
            # frozenset([below, (below,)])
            made += b"0h%c\x85\x940h\x00](h%ch%ce\x85R\x94" % (position, position, position + 1)
            position += 2
        made += b"0h\x01h%cNs0" % position
    return made + b"h\x01."


def one_tuple_in_many_keys(count: int) -> bytes:
    """A dict whose keys share one tuple, which is as long as the dict."""
    row = tuple(range(count))
    return pickle.dumps({(row, number): None for number in row})


def one_tuple_in_many_numbers(count: int) -> bytes:
    """A list of decimals made from the digits of one shared tuple."""
    decimal = b"\x80\x04\x8c\x07decimal\x8c\x07Decimal\x93\x94(K\x00" + b"(" + b"K\x01" * count + b"tK\x00t\x85\x94"
    return decimal + b"]" + b"h\x00h\x01Ra" * count + b"."


def one_identifier_of_many_parts(levels: int) -> bytes:
    """A key that is a UUID whose number is a nested tuple; each level contains the level below twice."""
    number = b")" + b"2\x86" * levels
    return b"\x80\x04}\x8c\x04uuid\x8c\x04UUID\x93)\x81}\x8c\x03int" + number + b"sbNs."


SEEDS = [
    *(pickle.dumps(_VALUE, protocol) for protocol in range(6)),
    pickle.dumps(GroupResult("g", [AsyncResult("a", backend=None)]).as_tuple()),
    b'{"a": [1, {"__type__": "datetime", "__value__": "2024-02-29T00:00:00+00:00"}]}',
    b'{"__type__": "py:dict", "__value__": [[{"__type__": "py:tuple", "__value__": [1]}, {"__type__": "py:set", '
    b'"__value__": [2305843009213693951, 4611686018427387902]}]]}',
    b"\x80\x04cos\nsystem\n\x8c\x02id\x85R.",
    b"\x80\x04Nr\x00\x00\x10\x00.",
    b"\x80\x04}N" + b"2\x86" * 20 + b"Ns.",
    two_equal_sets(5),
    one_tuple_in_many_keys(20),
    one_tuple_in_many_numbers(20),
    one_identifier_of_many_parts(5),
]


def check(data: bytes) -> None:
    """Give the bytes to both readers, unchanged and as the body of a pickle."""
    for one in (data, b"\x80\x04" + data + b"."):
        check_read(one, load)
        check_read(one, load_group)


def check_read(data: bytes, read: Any) -> None:
    """A reader returns plain values or raises SecurityError; it loads no module, changes no class, executes nothing."""
    before, modules = [dict(vars(one)) for one in _WATCHED], set(sys.modules)
    try:
        with nothing_executed():
            value = read(data)
    except SecurityError as error:
        assert len(str(error)) < 500
        assert str(error).isprintable()
    else:
        if _is_plain(value) and read is load:
            _check_again(value)
    assert [dict(vars(one)) for one in _WATCHED] == before
    assert set(sys.modules) == modules


def _check_again(value: Any) -> None:
    """A value that can be stored again can be read again; a bytearray, for one, only stock Celery stores."""
    try:
        data = dump(value)
    except UnstorableResultError:
        return
    assert _is_plain(load(data))


def _is_plain(value: Any) -> bool:
    """Return False for a value with itself, a class or an incomplete UUID in it.  Fails for a type not in ``PLAIN``."""
    left, seen = [value], 0
    while left:
        one, seen = left.pop(), seen + 1
        if seen > 10_000 or isinstance(one, type) or type(one).__name__ == "_StandIn":
            return False
        assert isinstance(one, PLAIN), type(one)
        if isinstance(one, uuid.UUID) and type(getattr(one, "int", None)) is not int:
            return False  # created without its number; using it fails
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            left += one
    return True
