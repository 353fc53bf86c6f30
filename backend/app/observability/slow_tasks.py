"""Tasks that run for long, and how long tasks of their name usually run, read from the database at each scrape."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from app.core.settings import get_settings
from app.observability import probe
from app.observability.database_collector import DatabaseCollector
from celery_postgres import operations
from celery_postgres.readmodel import thresholds

#: For how many seconds the usual times of runs are good: reading them takes 10 ms, and a fleet has many workers.
USUAL_FRESH_S = 60.0


class SlowTaskCollector(DatabaseCollector):
    """The longest run of each task of this application that goes on, and within which time 95 % of its runs ended.

    Of runs that take at least `SLOW_LEAST_S`; as long as there are none, the minutes that workers have counted are not
    read. Every worker shows the same numbers for the tasks that it has: take the maximum over workers.
    """

    what = "what runs for long"

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app
        self._usual: tuple[float, dict[str, float]] = float("-inf"), {}

    def read(self) -> Iterator[Metric]:
        longest: dict[str, float] = {}
        with probe.reading(get_settings()) as monitor:
            now = datetime.now(UTC)
            for one in monitor.running():
                ran_s = (now - one.since).total_seconds()
                # Names come from messages: only those that this application has become labels.
                if ran_s >= thresholds.SLOW_LEAST_S and one.task in self._app.tasks:
                    longest[one.task] = max(ran_s, longest.get(one.task, 0.0))
            if longest and time.monotonic() - self._usual[0] >= USUAL_FRESH_S:
                outcomes = monitor.outcomes(thresholds.BEFORE_S + thresholds.FAILING_WITHIN_S)
                self._usual = time.monotonic(), operations.usual_s(outcomes)
        usual = {task: self._usual[1][task] for task in longest if task in self._usual[1]}
        for name, text, values in (
            ("celery_task_longest_run_seconds", "For how long the longest run goes on, of a minute or more.", longest),
            ("celery_task_usual_run_seconds", "Within what time 95 % of the runs of these tasks ended.", usual),
        ):
            family = GaugeMetricFamily(name, text, labels=["task"])
            for task, value in values.items():
                family.add_metric([task], value)
            yield family
