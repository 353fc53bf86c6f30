"""From samples to a table: medians, ratios of neighbours, spreads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.samples import Results


@dataclass(frozen=True)
class Row:
    """One line of the table.

    :ivar target: what it should reach; empty for a line that only informs.
    """

    figure: str
    target: str
    measured: str
    ratio: str = ""
    spread: str = ""


def values(results: Results, variant: str, key: str) -> list[float]:
    """A number of all samples of a variant that have it."""
    return [float(sample[key]) for sample in results.get(variant, []) if sample.get(key) is not None]


def middle(results: Results, variant: str, key: str) -> float | None:
    """Its median, or None without samples."""
    found = values(results, variant, key)
    return median(found) if found else None


def ratios(results: Results, variant: str, other: str, key: str) -> list[float]:
    """The ratio to another variant, of samples made one after the other: what disturbs one disturbs both."""
    pairs = zip(results.get(variant, []), results.get(other, []), strict=False)
    return [one[key] / two[key] for one, two in pairs if one.get(key) and two.get(key)]


def percentile(numbers: Sequence[float], share: float) -> float:
    """The smallest number that at least this share of them does not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * share // 1).__int__() - 1))]


def spread(numbers: Iterable[float], digits: int = 2) -> str:
    """The smallest and the largest."""
    found = sorted(numbers)
    return f"{found[0]:,.{digits}f} … {found[-1]:,.{digits}f}" if found else ""


def number(found: float | None, unit: str = "", digits: int = 0) -> str:
    """A number for people; a dash where there is none."""
    return "-" if found is None else f"{found:,.{digits}f}{unit}"


def comparison(figure: str, target: str, results: Results, variant: str, other: str, key: str = "rate") -> Row:
    """A line that compares two variants."""
    found = ratios(results, variant, other, key)
    one, two = middle(results, variant, key), middle(results, other, key)
    return Row(
        figure,
        target,
        f"{number(one)} / {number(two)}",
        f"{median(found):.2f} x" if found else "-",
        spread(found),
    )


def table(rows: Sequence[Row]) -> str:
    """The table as text."""
    lines: list[Sequence[Any]] = [("figure", "target", "measured", "ratio", "spread")]
    lines += [(row.figure, row.target, row.measured, row.ratio, row.spread) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    written = [
        " | ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    written.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(written)
