"""The cells: one question each, and the table that answers it.

**Declare a cell**: a module here whose ``CELL`` is a ``Cell``, and its name in ``benchmarks/cells/all.py``.

A *variant* is what one sample is made of: the name of a system and how it is asked, such as ``ours 0ms plain``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import middle, shown, with_spread
from benchmarks.run import Run
from benchmarks.samples import Results

#: What a table shows of a system: ``column(results, name)``.
Column = Callable[[Results, str], str]


@dataclass(frozen=True)
class Cell:
    """A question.

    Attributes:
        name: on command lines, and of its file in the journal.
        variants: what to compare in this run, interleaved in this order; a system's name and how it is asked.
        measure: makes one sample: ``measure(run, system, how)`` returns numbers by name.
        per_system: whether variants begin with a system of the run; otherwise it is ``measure(run, variant)``.
        repetitions: samples of each variant in a full run; ``--quick`` makes one.
        page: the variants that the page shows, where these are not all.
        deadline_s: seconds that a sample may take at most.
        tables: name of its place on the page → heads and columns, whose rows are the systems.
        printed: the same for tables that have no place there, and are only printed.
    """

    name: str
    variants: Callable[[Run], Sequence[str]]
    measure: Callable[..., dict[str, Any]]
    per_system: bool = True
    repetitions: int = 3
    page: Callable[[Run], Sequence[str]] | None = None
    deadline_s: float = 180
    tables: Mapping[str, Sequence[tuple[str, Column]]] = field(default_factory=dict)
    printed: Mapping[str, Sequence[tuple[str, Column]]] = field(default_factory=dict)

    def asked(self, run: Run, *, page: bool = False) -> list[str]:
        """Return the variants to measure: without those that a system leaves out by its ``skips``.

        Args:
            run: the systems that are there.
            page: those alone that the page shows.
        """
        variants = (self.page if page and self.page and not run.quick else self.variants)(run)
        return [variant for variant in variants if not self.per_system or self.reason(run, variant) is None]

    def reason(self, run: Run, variant: str) -> str | None:
        """Return why a system is not measured in a variant."""
        name, _, how = variant.partition(" ")
        skips = run.systems[name].skips
        return next((skips[key] for key in (self.name, f"{self.name} {how}") if key in skips), None)

    def sample(self, run: Run, variant: str) -> dict[str, Any]:
        """Make a sample of a variant."""
        if not self.per_system:
            return self.measure(run, variant)
        name, _, how = variant.partition(" ")
        return self.measure(run, run.systems[name], how)


def number(how: str, *keys: str, mark: str = " / ") -> Column:
    """A column of medians, with ``mark`` between them."""
    return lambda results, name: mark.join(shown(middle(results, f"{name} {how}".rstrip(), key)) for key in keys)


def spread(how: str, key: str) -> Column:
    """A column of a median with the lowest and the highest."""
    return lambda results, name: with_spread(results, f"{name} {how}".rstrip(), key)
