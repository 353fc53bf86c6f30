"""How late `celery beat` is, and when one was last seen, read from the database at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from app.core.settings import get_settings
from app.observability import probe
from app.observability.database_collector import DatabaseCollector
from celery_postgres.operations import overdue_s


class BeatCollector(DatabaseCollector):
    """How long ago a beat was seen, and for how long each entry of `beat_schedule` should have been sent, by this
    worker's clock. Every worker shows the same numbers.

    Only entries that a beat has seen, and none of those that Celery adds by itself: where a beat ran once and none is
    wanted, they would be late forever.
    """

    what = "beat's entries"

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app

    def read(self) -> Iterator[Metric]:
        schedule = self._app.conf.beat_schedule or {}
        with probe.reading(get_settings()) as monitor:
            seen_s = monitor.beat_seen_s()
            runs = monitor.beat_runs(schedule) if schedule else []
        # No sample where no beat ran in the last day: none is wanted there.
        seen = GaugeMetricFamily("celery_beat_seen_age_seconds", "How long ago a beat that sends entries was seen.")
        if seen_s is not None:
            seen.add_metric([], seen_s)
        yield seen
        text = "For how long an entry of the schedule has been overdue."
        family = GaugeMetricFamily("celery_beat_overdue_seconds", text, labels=["entry"])
        for run in runs:
            # An entry with which beat would not start, or whose own kind of schedule fails, must not cost the other
            # metrics.
            with suppress(Exception):
                late_s = overdue_s(self._app, run.entry, schedule[run.entry], run.last_run_at)
                family.add_metric([run.entry], late_s)
        yield family
