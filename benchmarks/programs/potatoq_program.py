"""potatoq on PostgreSQL: installs, publishes and waits for chords.  Its worker is its own command."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from potatoq import chord

from benchmarks.programs import publishing
from benchmarks.programs.potatoq_app import app, gather, stamp, work

#: Seconds that a result may take.
_LIMIT_S = 120


def _one(number: int, seconds: float, padding: str) -> None:
    work.apply_async((number, seconds, padding))


def _many(numbers: Sequence[int], seconds: float, padding: str) -> None:
    app.publish([work.build_message([number, seconds, padding], {}) for number in numbers])


def _chords(count: str, parts: str) -> Any:
    """As ``celery_program`` does it."""
    found = []
    for _ in range(1 + int(count)):
        begin = time.perf_counter()
        gap = chord([stamp.s(number) for number in range(int(parts))], gather.s()).apply_async().get(timeout=_LIMIT_S)
        found.append((gap * 1000, (time.perf_counter() - begin) * 1000))
    return found[1:]


def main(words: Sequence[str]) -> None:
    """``install``, ``chords`` or ``publish MODE …``."""
    if words[0] == "publish":
        found = publishing.answer(words[1:], _one, _many)
    elif words[0] == "chords":
        found = _chords(*words[1:])
    else:
        app.broker.setup()
        found = True
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
