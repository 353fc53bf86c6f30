"""``kill -9`` of one of two workers: when its messages have run elsewhere, and which never do."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, middle, number, spread, values
from benchmarks.processes import call
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "crash"
REPETITIONS = 5
QUICK_REPETITIONS = 1

_TASKS = 200
_TASK_S = 0.02
#: Tasks that the victim has begun when it is killed.
_BEGUN = 40


def variants(bench: Bench) -> list[str]:
    """Peer, ack mode, prefetch multiplier of the victim."""
    ours = [f"ours {mode} {prefetch}" for mode in ("late", "early") for prefetch in (4, 64)]
    found = ours if "ours" in bench.peers else []
    return found + [f"{name} late 4" for name in bench.present("redis", "stock")]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Seconds from the kill until the last task has ended; tasks that never began, began twice, ended twice."""
    name, mode, prefetch = variant.split()
    limit_s = 60 if name == "ours" else 15
    options: dict[str, Any] = {"late": mode == "late", "prefetch": int(prefetch)}
    with (
        bench.peers[name].fresh() as broker,
        Worker(broker, **options) as victim,
        Worker(broker, **options) as heir,
    ):
        call("benchmarks.producer", "naps", _TASKS, _TASK_S, variables=broker.variables)
        victim.run_until(_BEGUN * 2, 60)
        # In the middle of a task, where it hurts.
        while victim.journal.records[-1][0] > 0 and victim.is_running():
            time.sleep(0.001)
            victim.journal.refresh()
        victim.kill()
        killed = time.monotonic_ns()
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            heir.run_until(0, 0)
            victim.journal.refresh()
            ended = {task for task, _, _ in victim.journal.records + heir.journal.records if task > 0}
            if len(ended) >= _TASKS:
                break
            time.sleep(0.05)
        by_victim, by_heir = victim.journal.records, heir.journal.records
        records = by_victim + by_heir
        began = Counter(-task for task, _, _ in records if task < 0)
        finished = Counter(task for task, _, _ in records if task > 0)
        ends = sorted(stop for task, _, stop in by_heir if task > 0 and stop > killed)
        # The heir first finishes its own; what it was then given began after the longest silence.
        pauses = [(later - earlier, later) for earlier, later in zip([killed, *ends], ends, strict=False)]
        return {
            "seconds": (ends[-1] - killed) / 1e9 if ends else None,
            "silence_s": max(pauses)[0] / 1e9 if pauses else None,
            "begun_by_victim": len([1 for task, _, _ in by_victim if task < 0]),
            "never_began": _TASKS - len(began),
            "never_ended": _TASKS - len(finished),
            "began_twice": sum(1 for times in began.values() if times > 1),
            "ended_twice": sum(1 for times in finished.values() if times > 1),
            "said": heir.log_text()[-500:],
        }


def rows(results: Results) -> list[Row]:
    """Time and counts."""
    found = []
    for who in ("ours late 4", "ours late 64", "ours early 4", "ours early 64", "redis late 4", "stock late 4"):
        if who not in results:
            continue
        mine = who.startswith("ours")
        # Acknowledged early, the task that ran is lost by agreement.
        unfinished = sum(values(results, who, "never_ended" if "late" in who else "never_began"))
        shown = number(middle(results, who, "seconds"), " s", 1) if unfinished == 0 else "not within the time given"
        found.append(
            Row(
                f"kill -9: all its messages have run, {who}",
                "10 s" if mine else "",
                shown,
                "",
                spread(values(results, who, "seconds"), 1),
            )
        )
        counts = ", ".join(
            f"{key.replace('_', ' ')} {sum(values(results, who, key)):.0f}"
            for key in ("never_began", "never_ended", "began_twice", "ended_twice")
        )
        found.append(Row(f"kill -9: of {_TASKS} tasks a run, {who}", "0 never began" if mine else "", counts))
    return found
