"""Detects keys that were chosen to have one hash, before they are put into a dict or a set.

Python compares such keys one by one: 100,000 integers that are multiples of 2**61 - 1, in 780 kB, take more than a
minute. The hashes of text and bytes cannot be chosen: each process has a secret of its own for them.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

#: So many keys may have one hash. By accident two do: -1 and -2, and numbers that are equal.
MOST_ALIKE = 16


class HashCounter:
    """Counts the hashes of what is put into one dict or set."""

    def __init__(self) -> None:
        self._alike: dict[int, int] = {}

    def add(self, keys: Iterable[Any]) -> None:
        """Count the hashes of these keys too.

        Raises:
            ValueError: too many keys have one hash.
            TypeError: a key has no hash.
        """
        for key in keys:
            if type(key) is str or type(key) is bytes:
                continue
            number = hash(key)
            alike = self._alike[number] = self._alike.get(number, 0) + 1
            if alike > MOST_ALIKE:
                raise ValueError("keys that were chosen to have one hash")


def make_set(kind: type, *given: Any) -> Any:
    """A `set` or `frozenset` of what is given, if that does not have too many keys with one hash."""
    for members in given:
        HashCounter().add(members)
    return kind(*given)


#: Only Python's own implementation shows what it puts where.
_InPython: Any = pickle._Unpickler


class Reader(_InPython):  # type: ignore[misc]
    """Counts the hashes of what it puts into dicts and sets. It takes ten times as long as C's implementation."""

    dispatch: dict[int, Any] = dict(_InPython.dispatch)

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        # Each counter with its dict or set, so that no other object gets the same id.
        self._counted: dict[int, tuple[Any, HashCounter]] = {}

    def _count(self, holder: Any, keys: Iterable[Any]) -> None:
        self._counted.setdefault(id(holder), (holder, HashCounter()))[1].add(keys)

    def _set_item(self) -> None:
        self._count(self.stack[-3], self.stack[-2:-1])
        self.load_setitem()

    def _set_items(self) -> None:
        self._count(self.metastack[-1][-1], self.stack[::2])
        self.load_setitems()

    def _add_items(self) -> None:
        self._count(self.metastack[-1][-1], self.stack)
        self.load_additems()

    def _make_dict(self) -> None:
        HashCounter().add(self.stack[::2])
        self.load_dict()

    def _make_frozenset(self) -> None:
        HashCounter().add(self.stack)
        self.load_frozenset()

    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.ADDITEMS[0]] = _add_items
    dispatch[pickle.DICT[0]] = _make_dict
    dispatch[pickle.FROZENSET[0]] = _make_frozenset
