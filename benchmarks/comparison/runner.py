"""Runs cells: systems in turn, and all of them again for each repetition."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from benchmarks import machine
from benchmarks.comparison.field import Field


def run(cells: Sequence[ModuleType], field: Field) -> None:
    """Make the samples that are missing."""
    for cell in cells:
        for repetition in range(cell.QUICK_REPETITIONS if field.quick else cell.REPETITIONS):
            for variant in cell.variants(field):
                if len(field.samples.of(cell.NAME).get(variant, [])) <= repetition:
                    _sample(cell, field, variant)


def _sample(cell: ModuleType, field: Field, variant: str) -> None:
    loud = machine.wait_calm(field.pick(2, 20))
    began = time.monotonic()
    try:
        result: dict[str, Any] = cell.run(field, variant)
    except Exception:
        # A system that fails must not cost the figures of the others; the next run tries again.
        _say(f"{cell.NAME} {variant}: failed\n{traceback.format_exc()}")
        return
    seconds = round(time.monotonic() - began, 1)
    field.samples.add(cell.NAME, variant, result, others_before=loud, took_s=seconds)
    shown = {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in result.items()
        if isinstance(value, (int, float)) and value
    }
    _say(f"{cell.NAME} {variant} ({seconds:.0f} s, others {loud:.0%}): {shown}")


def _say(line: str) -> None:
    print(line, flush=True)
