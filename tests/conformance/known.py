"""The tests that are known to fail, from the table of docs/conformance.md, and what a run says to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

OURS, REDIS = "celery_postgres", "Redis"
#: What the column "fails on" may say.
_FAILS_ON = {OURS: {OURS}, REDIS: {REDIS}, "both": {OURS, REDIS}}
_ROW = re.compile(r"^\| (?P<suite>\w+) \| `(?P<test>[^`]+)` \| (?P<fails_on>[^|]+) \| (?P<reason>[^|]+) \|$")


@dataclass(frozen=True)
class Known:
    """A test that fails, and why.

    Attributes:
        systems: those on which it does.
    """

    systems: frozenset[str]
    reason: str


def read(page: Path) -> dict[tuple[str, str], Known]:
    """The table: suite and id of a test → what is known of it.

    Raises:
        ValueError: when a line names another system, or a test twice.
    """
    found: dict[tuple[str, str], Known] = {}
    for line in page.read_text().splitlines():
        if (row := _ROW.match(line)) is None:
            continue
        key = row["suite"], row["test"]
        if row["fails_on"] not in _FAILS_ON or key in found:
            raise ValueError(f"{page.name}: {line}")
        found[key] = Known(frozenset(_FAILS_ON[row["fails_on"]]), row["reason"])
    return found


def wrong(suite: str, ours: Mapping[str, str], known: Mapping[tuple[str, str], Known]) -> list[str]:
    """What differs from the table, a line each; empty if nothing does.

    Args:
        ours: id of a test → how it ended on our system.  What Redis does decides nothing: it is there to compare.
    """
    listed = {test for (of, test), one in known.items() if of == suite and OURS in one.systems}
    passing = {test for test, how in ours.items() if how == "passed"}
    return [
        *(f"{test} is listed, and passes" for test in sorted(listed & passing)),
        *(f"{test} fails, and is not listed" for test in sorted(failing(ours) - listed)),
    ]


def failing(ended: Mapping[str, str]) -> set[str]:
    """The ids that failed."""
    return {test for test, how in ended.items() if how == "failed"}


def ended(parts: Iterable[tuple[str, str, bool, str]]) -> dict[str, str]:
    """How each test ended: ``passed``, ``failed``, ``skipped`` or ``xfailed``, from what was written of set-up, test
    and tear-down.
    """
    worst = ["passed", "xfailed", "skipped", "failed"]
    found: dict[str, str] = {}
    for test, outcome, expected, _ in parts:
        how = "xfailed" if expected and outcome == "skipped" else outcome
        found[test] = max(found.get(test, "passed"), how, key=worst.index)
    return found
