"""Celery, on whatever broker: publishes for the comparison.  Its worker is Celery's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from benchmarks import bulk
from benchmarks.program import app, work
from benchmarks.programs import publishing


def _one(number: int, seconds: float, padding: str) -> None:
    work.apply_async((number, seconds, padding))


def _many(numbers: Sequence[int], seconds: float, padding: str) -> None:
    with bulk.together(app) as producer:
        for number in numbers:
            work.apply_async((number, seconds, padding), producer=producer)


def main(words: Sequence[str]) -> None:
    """``publish MODE …``."""
    assert words[0] == "publish"
    print(json.dumps(publishing.answer(words[1:], _one, _many if bulk.is_offered() else None)))


if __name__ == "__main__":
    main(sys.argv[1:])
