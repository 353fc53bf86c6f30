"""The rule by which a task runs for too long, by how long tasks of its name have run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from celery_postgres.database.histogram import percentile
from celery_postgres.database.queue_view_store import Outcomes
from celery_postgres.readmodel import thresholds
from celery_postgres.readmodel.observed import Observed
from celery_postgres.readmodel.problem import Problem, Severity
from celery_postgres.readmodel.words import duration, listed


def slow(observed: Observed) -> Problem | None:
    """A task runs many times as long as nearly all of its name did in the last two hours."""
    usual = usual_s((*observed.before, *observed.recent))
    found = []
    for worker in observed.workers:
        for one in worker.running:
            ran = observed.at - one.since
            limit_s = max(thresholds.SLOW_TIMES.warning * usual.get(one.task, float("inf")), thresholds.SLOW_LEAST_S)
            if ran > timedelta(seconds=min(limit_s, 1e9)):
                found.append((ran.total_seconds(), one.task, worker.name or worker.hostname or f"number {worker.id}"))
    if not found:
        return None
    ran_s, task, where = max(found)
    more = sorted({name for _, name, _ in found} - {task})
    others = f" Also {listed(more)}." if more else ""
    return Problem(
        "slow",
        Severity.WARNING,
        f"{task} has run for {duration(ran_s)} in worker {where}",
        f"Of its runs 95 % ended within {duration(usual[task])}.{others}",
        ran_s,
        "running",
        task,
    )


def usual_s(outcomes: Iterable[Outcomes]) -> dict[str, float]:
    """Within how many seconds 95 % of the runs of each task ended that has run often enough to tell."""
    counts: dict[str, list[int]] = {}
    for one in outcomes:
        known = counts.get(one.name)
        counts[one.name] = list(one.ran) if known is None else [a + b for a, b in zip(known, one.ran, strict=True)]
    enough = {name: ran for name, ran in counts.items() if sum(ran) >= thresholds.FEWEST_RUNS}
    return {name: value for name, ran in enough.items() if (value := percentile(ran, 0.95)) is not None}
