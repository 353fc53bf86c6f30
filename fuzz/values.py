"""Interprets bytes as a recipe for a JSON value: a mutated text is rarely JSON, a mutated recipe is always a value."""

from __future__ import annotations

from typing import Any

_CONSTANTS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**4000, 2**63, 1.5, float("inf"), float("nan"), "", "0", "\ud800", "\0",
    "x" * 21_000,
    "2031-01-01T00:00:00+05:30", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1000", "base64", "gzip",
    "application/json", "application/x-python-serialize", "utf-8", "utf-16", "binary", "W1tdLCB7fSwge31d", [], {},
)  # fmt: skip


def value_of(data: bytes, words: tuple[str, ...]) -> Any:
    """Return the value that `data` builds on a stack from `words`, constants, short texts, lists and objects."""
    stack: list[Any] = [None]
    left = iter(data)
    for byte in left:
        kind, argument = byte & 7, byte >> 3
        if kind <= 1:
            stack.append(_CONSTANTS[argument % len(_CONSTANTS)])
        elif kind <= 3:
            stack.append(words[argument % len(words)])
        elif kind == 4:
            stack.append(bytes(one for one, _ in zip(left, range(argument), strict=False)).decode("latin-1"))
        elif kind == 5:
            stack[-argument - 1 :] = [stack[-argument - 1 :]]
        else:
            taken = stack[-2 * argument :] if argument else []
            del stack[len(stack) - len(taken) :]
            keys = [one if isinstance(one, str) else words[0] for one in taken[::2]]
            stack.append(dict(zip(keys, taken[1::2], strict=False)))
    return stack[-1]
