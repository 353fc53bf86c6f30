"""Runs cells: variants interleaved, several times, each sample kept when it is made."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from benchmarks import machine
from benchmarks.bench import Bench
from benchmarks.figures import Row
from benchmarks.record import Results, Store


def run(cells: Sequence[ModuleType], bench: Bench, store: Store, repetitions: int | None = None) -> list[Row]:
    """Run cells and return the lines of their tables.

    :param repetitions: instead of each cell's own number.
    """
    hardware = machine.describe()
    settings = {name: peer.describe() for name, peer in bench.peers.items()}
    rows: list[Row] = []
    for cell in cells:
        times = repetitions or (cell.QUICK_REPETITIONS if bench.quick else cell.REPETITIONS)
        results = _run_cell(cell, bench, store, times, {"machine": hardware, "peers": settings})
        try:
            rows += cell.rows(results)
        except Exception:
            _say(f"{cell.NAME}: no table\n{traceback.format_exc()}")
    return rows


def _run_cell(cell: ModuleType, bench: Bench, store: Store, times: int, head: dict[str, Any]) -> Results:
    results: Results = {}
    for repetition in range(times):
        for variant in cell.variants(bench):
            found = store.load(cell.NAME, variant, repetition)
            if found is None:
                loud = machine.wait_calm(bench.pick(5, 20))
                began = time.monotonic()
                try:
                    sample = cell.run(bench, variant)
                except Exception:
                    # One peer that fails must not cost the figures of the others.
                    _say(f"{cell.NAME} {variant} #{repetition}: failed\n{traceback.format_exc()}")
                    continue
                found = {**head, "quick": bench.quick, "others_before": loud, "result": sample}
                store.save(cell.NAME, variant, repetition, found)
                said = {
                    key: _brief(value)
                    for key, value in sample.items()
                    if value and key != "said" and not isinstance(value, (list, dict))
                }
                if any(word in str(sample.get("said")) for word in ("ERROR", "Traceback")):
                    _say(str(sample["said"]))
                _say(
                    f"{cell.NAME} {variant} #{repetition} ({time.monotonic() - began:.0f} s, others {loud:.0%}): {said}"
                )
            results.setdefault(variant, []).append(found["result"])
    return results


def _brief(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _say(line: str) -> None:
    print(line, flush=True)
