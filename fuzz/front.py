"""What the HTTP front reads before authentication: nesting, Idempotency-Key, cursors, API keys, correlation ids."""

from __future__ import annotations

import json
from datetime import UTC
from types import SimpleNamespace
from typing import Any

from app.db.api_keys import authenticate
from app.http import cursors, idempotency
from app.http.documents import Limits
from app.http.problems import Problem
from app.tasks.context import check_correlation_id

SEEDS = [
    b'{"a": [1, {"b": "[[[[{{{{\\""}]}',
    b'"refund-7"',
    b"refund-7",
    b"WyIyMDI2LTAxLTAxVDAwOjAwOjAwKzAwOjAwIiwgImEiXQ",
    b"sk_" + b"0" * 32 + b"_" + b"A" * 43,
]


def check(data: bytes) -> None:
    """Give the same bytes to each of them; headers are Latin-1."""
    header = data.decode("latin-1")
    for most in (0, 1, 3, 20):
        check_limits(data, most)
    check_idempotency_key(header)
    check_cursor(header)
    check_cursor(data.decode("utf-8", "replace"))
    check_key(header)
    check_correlation(header)


def check_limits(document: bytes, most: int) -> None:
    """The limits agree with a JSON parser on levels and members, and accept no document that exceeds its recursion."""
    deeper = Limits(levels=most, members=len(document) + 1).exceeded(document) is not None
    more = Limits(levels=len(document) + 1, members=most).exceeded(document) is not None
    try:
        # Pairs, since a repeated key counts twice.
        value = json.loads(document.decode(), object_pairs_hook=tuple)
    except RecursionError:
        assert deeper
    except ValueError:
        return
    else:
        levels, members = _size(value)
        assert deeper == (levels > most)
        assert more == (members > most)


def check_idempotency_key(header: str) -> None:
    """A header is a key that can be quoted and parsed again, or status 400."""
    try:
        key = idempotency.parse(header, required=True)
    except Problem as problem:
        assert problem.status == 400
        return
    assert key is not None
    assert 1 <= len(key) <= idempotency.LONGEST
    assert key.isascii()
    assert key.isprintable()
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert idempotency.parse(quoted, required=True) == key


def check_cursor(cursor: str) -> None:
    """A cursor is a timestamp and an id that PostgreSQL can store, or none of ours."""
    found = cursors.read(cursor)
    if found is None:
        return
    moment, task_id = found
    assert moment.tzinfo is UTC
    assert task_id.isascii()
    assert "\0" not in task_id
    assert cursors.read(cursors.written(moment, task_id)) == (moment, task_id)


def check_key(key: str) -> None:
    """An unknown key authenticates no tenant, and only text of the form of a key reaches the database."""
    queries: list[Any] = []

    def execute(_statement: Any, parameters: dict[str, Any]) -> Any:
        queries.append(parameters)
        return SimpleNamespace(one_or_none=lambda: None)

    assert authenticate(SimpleNamespace(execute=execute), key) is None  # type: ignore[arg-type]
    assert not queries or (len(key) == 79 and key.isascii())


def check_correlation(text: str) -> None:
    """A correlation id is printable, or the error does not quote it."""
    try:
        assert check_correlation_id(text).isprintable()
    except ValueError as error:
        assert "printable text of" in str(error)


def _size(value: Any) -> tuple[int, int]:
    """Return the levels and the members of a value; an empty collection counts as one member."""
    deepest, members, left = 0, 0, [(value, 0)]
    while left:
        one, level = left.pop()
        if isinstance(one, tuple | list):
            deepest = max(deepest, level + 1)
            members += max(1, len(one))
            left += [(inner, level + 1) for inner in ((pair[1] for pair in one) if isinstance(one, tuple) else one)]
    return deepest, members
