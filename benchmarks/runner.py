"""Runs cells: variants interleaved, several times, each sample kept when it is made."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

from benchmarks import machine
from benchmarks.figures import Row
from benchmarks.samples import Samples


class Run(Protocol):
    """What cells are given.

    :ivar quick: whether each cell makes its ``QUICK_REPETITIONS`` and not its ``REPETITIONS``.
    """

    @property
    def quick(self) -> bool: ...


def measure(
    cells: Sequence[ModuleType],
    given: Run,
    samples: Samples,
    *,
    calm_s: float,
    repetitions: int | None = None,
    **about: Any,
) -> int:
    """Make the samples that are missing; how many could not be made.

    :param calm_s: how long to wait before each until others leave the processors alone.
    :param repetitions: instead of each cell's own number.
    :param about: kept with each sample.
    """
    failed = 0
    for cell in cells:
        for repetition in range(repetitions or (cell.QUICK_REPETITIONS if given.quick else cell.REPETITIONS)):
            for variant in cell.variants(given):
                failed += not sample(cell, given, variant, samples, calm_s, about, repetition)
    return failed


def rows(cells: Sequence[ModuleType], samples: Samples) -> list[Row]:
    """The lines of the cells' tables."""
    found: list[Row] = []
    for cell in cells:
        try:
            found += cell.rows(samples.of(cell.NAME))
        except Exception:
            _say(f"{cell.NAME}: no table\n{traceback.format_exc()}")
    return found


def sample(
    cell: ModuleType,
    given: Run,
    variant: str,
    samples: Samples,
    calm_s: float,
    about: dict[str, Any],
    repetition: int,
) -> bool:
    """Make a sample, unless there are more than ``repetition`` of its variant; whether there is one."""
    if len(samples.of(cell.NAME).get(variant, [])) > repetition:
        return True
    loud = machine.wait_calm(calm_s)
    began = time.monotonic()
    try:
        result: dict[str, Any] = cell.run(given, variant)
    except Exception:
        # One that fails must not cost the figures of the others; the next run tries again.
        _say(f"{cell.NAME} {variant}: failed\n{traceback.format_exc()}")
        return False
    seconds = round(time.monotonic() - began, 1)
    samples.add(cell.NAME, variant, result, **about, quick=given.quick, others_before=loud, took_s=seconds)
    if any(word in str(result.get("said")) for word in ("ERROR", "Traceback")):
        _say(str(result["said"]))
    shown = {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in result.items()
        if value and key != "said" and not isinstance(value, (list, dict))
    }
    _say(f"{cell.NAME} {variant} ({seconds:.0f} s, others {loud:.0%}): {shown}")
    return True


def _say(line: str) -> None:
    print(line, flush=True)
