"""Serializes results as stock Celery reads them, and reads them without executing anything.

Up to Celery 5.6 the stock backend's result columns are pickles, also with the JSON serializer; from 5.7 on they are
JSON. Anybody who may write to the table could have a reader of pickles run code. So values are reduced to plain ones
before they are written, and a pickle may name only the few classes listed below.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import io
import pickle
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

from celery.exceptions import SecurityError
from celery.result import AsyncResult, GroupResult
from kombu.utils import json

from celery_postgres.errors import UnstorableResultError
from celery_postgres.results import hash_guard, tagged_json
from celery_postgres.results.pickle_guard import SHORT_TEXT, check_size


class Pickle(enum.StrEnum):
    """Where pickles are allowed: the option `pickle` of `result_backend_transport_options`."""

    #: Write values as pickles, which every Celery reads.
    WRITE = "write"
    #: Write values as JSON, which the stock backend reads from Celery 5.7 on; as pickles only where JSON would change
    #: them. Read both.
    READ = "read"
    #: Write values as JSON, with tags of this package's own where JSON would change them; read no pickle.
    REFUSE = "refuse"


#: Immutable. Exactly these types: a subclass would be pickled by its name.
_PLAIN = frozenset(
    {type(None), bool, int, float, str, bytes, date, time, timedelta, Decimal, UUID},
)


class _StandIn:
    """Takes the place of a class: calls a function, and has no attributes that a pickle could set, as a pickle can on
    anything that it names."""

    __slots__ = ("_form",)

    def __init__(self, form: Callable[..., Any]) -> None:
        self._form = form

    def __call__(self, *arguments: Any) -> Any:
        return self._form(*arguments)

    def __setstate__(self, state: object) -> None:
        raise SecurityError("a stored result tries to modify its reader; it was not loaded")


def _decimal(text: str) -> Decimal:
    if not isinstance(text, str):  # an integer of 200 kB takes 3 s
        raise SecurityError("a stored result makes a Decimal from something that is not text; it was not loaded")
    return Decimal(text)


_ALLOWED: dict[tuple[str, str], Any] = {
    **{("datetime", one.__name__): one for one in (date, datetime, time, timedelta, timezone)},
    ("decimal", "Decimal"): _StandIn(_decimal),
    ("uuid", "UUID"): UUID,
    # Pickles before protocol 3 use the second module name.
    **{
        (module, one.__name__): _StandIn(functools.partial(hash_guard.make_set, one))
        for one in (set, frozenset)
        for module in ("builtins", "__builtin__")
    },
}
_PROTOCOL = 4
#: Text, bytes and integers of 256 bytes and more: the opcode, followed by the length.
_LONG = re.compile(rb"[XB\x8b](?=(.{4}))", re.DOTALL)
#: Characters of a refused name that go into the error's text.
_LONGEST_NAME = 100
#: This many comparisons take no noticeable time, even of keys that were chosen.
_COMPARISONS = 5_000_000


def _named(known: dict[tuple[str, str], Any], module: str, name: str) -> Any:
    try:
        return known[module, name]
    except KeyError:
        shown = ascii(f"{module}.{name}")[1:-1][:_LONGEST_NAME]
        raise SecurityError(
            f"a stored result names {shown}, which is not on the list of what may be read; it was not "
            "loaded, and nothing was executed"
        ) from None


class _Reader(pickle.Unpickler):
    """Resolves only the given names."""

    def __init__(self, data: bytes, known: dict[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        return _named(self._known, module, name)


class _CarefulReader(hash_guard.Reader):
    """The same, for a pickle with so many keys that their hashes matter."""

    def __init__(self, data: bytes, known: dict[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        return _named(self._known, module, name)


def dump(value: Any, form: Pickle = Pickle.WRITE) -> bytes:
    """A task's return value as bytes that stock Celery reads.

    Plain Python values stay what they are (a tuple stays a tuple). Other values are stored as what Kombu's JSON makes
    of them. A value of a type that the program has registered with Kombu is stored as JSON in every form, because
    nothing reads a pickle that names it; beside a tuple or a set only this package reads that.

    Raises:
        UnstorableResultError: JSON cannot represent the value. The text names the type and does not quote the value.
    """
    try:
        reduced = _reduced(value)
        if form is not Pickle.WRITE:
            with contextlib.suppress(tagged_json.NotExactError):
                return tagged_json.dumps(reduced, tags=form is Pickle.REFUSE)
        try:
            data = pickle.dumps(reduced, protocol=_PROTOCOL)
        except tagged_json.NotPickledError:
            return tagged_json.dumps(reduced, tags=True)
        long = _LONG.finditer(data) if len(data) > SHORT_TEXT else ()
        if any(SHORT_TEXT <= int.from_bytes(one[1], "little") < len(data) for one in long):
            check_size(data)
        return data
    except RecursionError:
        raise UnstorableResultError("the result cannot be stored: it contains itself or is nested too deeply") from None
    except ValueError:
        raise UnstorableResultError(
            "the result cannot be stored: it repeats a long text so often that readers would refuse it"
        ) from None
    except TypeError:
        # JSON turns a named tuple into a list, which cannot be a member of a set or a key.
        raise UnstorableResultError(
            "the result cannot be stored: a set or a dict key contains a value that JSON makes unhashable"
        ) from None


def load(data: bytes | memoryview | None, form: Pickle = Pickle.READ) -> Any:
    """The value that `dump` or a stock backend has stored: up to Celery 5.6 as a pickle, from 5.7 on as JSON.

    Raises:
        celery.exceptions.SecurityError: a pickle names something that is not on the list, or the bytes are neither a
            pickle nor JSON.
    """
    return None if data is None else _read(bytes(data), _ALLOWED, form)


def _read(data: bytes, known: dict[tuple[str, str], Any], form: Pickle) -> Any:
    try:
        if data[:1] != b"\x80":  # every pickle of protocol 2 and newer begins with it, and no JSON does
            with contextlib.suppress(ValueError):
                return tagged_json.loads(data)
        return _read_pickle(data, known, form)
    except SecurityError:
        raise
    except Exception as error:  # a broken or hostile pickle can raise anything
        raise SecurityError(f"a stored result cannot be read: {type(error).__name__}") from None


def _read_pickle(data: bytes, known: dict[tuple[str, str], Any], form: Pickle) -> Any:
    if form is Pickle.REFUSE:
        raise SecurityError(
            "a stored result is not JSON, and no pickle is read: `pickle` in result_backend_transport_options is refuse"
        )
    keys, members = check_size(data)
    reader = _Reader if keys * members <= _COMPARISONS else _CarefulReader
    return reader(data, known).load()


def _reduced(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return kind([_reduced(one) for one in value])
    if kind is dict:
        return {_reduced(key): _reduced(one) for key, one in value.items()}
    if kind is datetime:
        # A named time zone would be pickled with its class; JSON too keeps only the offset.
        named = value.tzinfo is not None and type(value.tzinfo) is not timezone
        return datetime.fromisoformat(value.isoformat()) if named else value
    try:
        return tagged_json.plain(value)
    except Exception as error:
        # This message of json names the type that it cannot encode; any other may quote the value.
        text = str(error)
        reason = text if text.startswith("Object of type ") else f"JSON cannot represent {kind.__name__}"
        raise UnstorableResultError(f"the result cannot be stored: {reason}") from None


# -- groups


def dump_group(group: GroupResult, form: Pickle = Pickle.WRITE) -> bytes:
    """A saved group as bytes that a stock backend reads: its tree of ids.

    The stock form contains the address of the backend, password included. This one leaves it out: a reader uses the
    backend of its own application, as for every other id.
    """
    if form is not Pickle.WRITE:
        return json.dumps(group.as_tuple()).encode()
    buffer = io.BytesIO()
    _GroupWriter(buffer, protocol=_PROTOCOL).dump(group)
    return buffer.getvalue()


class _GroupWriter(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, GroupResult):
            return GroupResult, (value.id, list(value.results or ()))
        if isinstance(value, AsyncResult):
            return AsyncResult, (value.id, None, None, None, value.parent)
        return NotImplemented


# Celery's classes are read as the tuples that their `as_tuple()` would return.
#: AsyncResult(id, backend, task_name, app, parent)
_SINGLE = _StandIn(lambda identity, *rest: ((identity, rest[3] if len(rest) > 3 else None), None))
#: GroupResult(id, results)
_GROUP = _StandIn(lambda identity, results, *_: ((identity, None), results))
#: In place of everything that creates a backend.
_NOTHING = _StandIn(lambda *_: None)

_GROUP_NAMES: dict[tuple[str, str], Any] = {
    **_ALLOWED,
    ("celery.result", "GroupResult"): _GROUP,
    ("celery.result", "AsyncResult"): _SINGLE,
    ("celery.backends.base", "unpickle_backend"): _NOTHING,
    ("celery.backends.database", "DatabaseBackend"): _NOTHING,
    # The stock backend saves its engine's options too.
    **{("sqlalchemy.pool.impl", f"{kind}Pool"): _NOTHING for kind in ("Null", "Queue", "SingletonThread", "Static")},
}


def load_group(data: bytes | memoryview, form: Pickle = Pickle.READ) -> Any:
    """The tuple form (`as_tuple()`) of a saved group, for `celery.result.result_from_tuple`.

    No class of Celery that a stock row names is called.

    Raises:
        celery.exceptions.SecurityError: as for `load`.
    """
    return _read(bytes(data), _GROUP_NAMES, form)
