"""A chord of a hundred, on the Celery systems whose results can hold one."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.comparison.field import Field, worker_of
from benchmarks.processes import answer, start

NAME = "chord"
REPETITIONS = 2
QUICK_REPETITIONS = 1

_PARTS = 100
#: Celery's rpc backend refuses chords.
_ABLE = ("ours", "redis", "redis-always", "stock", "rabbitmq-db")


def variants(field: Field) -> list[str]:
    """System, pool."""
    return [f"{name} solo" for name in field.present(_ABLE)]


def run(field: Field, variant: str) -> dict[str, Any]:
    """Milliseconds from the end of the last part to the start of the body, and of the whole with ``get()``."""
    name, _pool = variant.split()
    count = int(field.pick(1, 3) if name in ("stock", "rabbitmq-db") else field.pick(4, 15))
    with (
        field.systems[name].fresh(results=True) as ground,
        worker_of(ground, 1, count * _PARTS * 2, ready=True),
    ):
        arguments = ["-m", "benchmarks.asker", "chords", str(count), str(_PARTS)]
        took = answer(start(arguments, ground.variables, stdout=-1, stderr=-1))
    gaps, wholes = zip(*took, strict=True)
    return {"gap": median(gaps), "worst_gap": max(gaps), "whole": median(wholes), "chords": count}
