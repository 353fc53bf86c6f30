"""``kill -9`` of one of two workers: when its messages have run elsewhere, and which never do."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from benchmarks.cells import Cell, number, spread
from benchmarks.run import Run, worker_of
from benchmarks.systems import System
from benchmarks.systems.celery_systems import PROGRAM
from environment.testkit.children import call

_TASKS = 200
_TASK_S = 0.02
#: Tasks that the victim has begun when it is killed.
_BEGUN = 40


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Seconds from the kill until the last task ended; tasks that never began or ended, or did so twice."""
    limit_s = 60 if system.name == "ours" else 20
    late = how == "late"
    with (
        system.fresh() as broker,
        worker_of(broker, 1, 10_000, ready=True, late=late) as victim,
        worker_of(broker, 1, 10_000, ready=True, late=late) as heir,
    ):
        call(PROGRAM, "naps", _TASKS, _TASK_S, variables=broker.variables)
        victim.run_until(_BEGUN * 2, 60)
        # In the middle of a task: the record of its start is the last.
        while victim.journal.records[-1][0] > 0 and victim.is_running():
            time.sleep(0.001)
            victim.journal.refresh()
        victim.kill()
        killed = time.monotonic_ns()
        ended: set[int] = set()
        while len(ended) < _TASKS and time.monotonic_ns() < killed + limit_s * 1e9:
            time.sleep(0.05)
            heir.run_until(0, 0)
            victim.journal.refresh()
            ended = {task for task, _, _ in victim.journal.records + heir.journal.records if task > 0}
        records = victim.journal.records + heir.journal.records
        last = max((stop for task, _, stop in heir.journal.records if task > 0), default=killed)
    began = Counter(-task for task, _, _ in records if task < 0)
    finished = Counter(task for task, _, _ in records if task > 0)
    # Acknowledged early, the task that ran is lost by agreement.
    done = len(finished if late else began) == _TASKS
    return {
        "seconds": (last - killed) / 1e9 if done else None,
        "never_began": _TASKS - len(began),
        "never_ended": _TASKS - len(finished),
        "began_twice": sum(times > 1 for times in began.values()),
        "ended_twice": sum(times > 1 for times in finished.values()),
    }


_KEYS = ("never_began", "never_ended", "began_twice", "ended_twice")
CELL = Cell(
    "crash",
    lambda run: [
        *(f"{name} late" for name in run.present("ours", "redis", "stock")),
        *(f"{name} early" for name in run.present("ours")),
    ],
    measure,
    repetitions=5,
    tables={
        "crash": [
            *((f"{how} ack: all have run, s", spread(how, "seconds")) for how in ("late", "early")),
            *((f"of {_TASKS}: {key.replace('_', ' ')}", number("late", key)) for key in _KEYS),
        ]
    },
)
