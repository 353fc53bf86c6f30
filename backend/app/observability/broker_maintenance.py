"""Whether this worker can do its share of the broker's maintenance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

import celery_postgres


class Maintenance(celery_postgres.Observer, Collector):
    """The steps that this process has run, and whether the last attempt of each failed."""

    def __init__(self) -> None:
        self._failing: dict[str, bool] = {}

    def maintained(self, step: str, well: bool) -> None:
        self._failing[step] = not well

    @property
    def error(self) -> str | None:
        """The failing steps, for `/readyz`; None if none fails."""
        failing = sorted(step for step, failing in self._failing.items() if failing)
        return f"failing: {', '.join(failing)}" if failing else None

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "celery_maintenance_failing",
            "Whether a step of the broker's maintenance failed when this worker last tried it.",
            labels=["step"],
        )
        for step, failing in sorted(self._failing.items()):
            family.add_metric([step], float(failing))
        yield family


maintenance = Maintenance()
