"""State that a forked child must not inherit: locks that a thread of the parent may hold, threads, connections."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """One value for each process; a forked child begins with a new one.

    Attributes:
        value: what `make` has returned in this process.
    """

    def __init__(self, make: Callable[[], T], leave: Callable[[T], None] | None = None) -> None:
        """Make the value of this process.

        Args:
            leave: called in a forked child with the parent's value, to let go of what the two would share.
        """
        self._make, self._leave = make, leave
        self.value = make()
        _all.append(self)

    def _renew(self) -> None:
        inherited, self.value = self.value, self._make()
        if self._leave is not None:
            self._leave(inherited)


#: In the order in which their modules were imported.
_all: list[PerProcess[Any]] = []


def _renew_all() -> None:
    for one in _all:
        one._renew()


os.register_at_fork(after_in_child=_renew_all)
