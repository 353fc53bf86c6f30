"""Counts that stop: a view never counts millions."""

from __future__ import annotations

from dataclasses import dataclass

#: Counting stops here.
CAP = 10_001


@dataclass(frozen=True, slots=True, order=True)
class Count:
    """A number, or a lower bound of it.

    Attributes:
        number: how many, or how many at least.
        or_more: whether counting stopped there. `str()` is then `10,000+`.
    """

    number: int
    or_more: bool = False

    @classmethod
    def of(cls, counted: int, cap: int = CAP) -> Count:
        """What was counted up to `cap`, which means as many or more."""
        return cls(cap - 1, or_more=True) if counted >= cap else cls(counted)

    def __str__(self) -> str:
        return f"{self.number:,}{'+' if self.or_more else ''}"

    def __bool__(self) -> bool:
        return self.number > 0
