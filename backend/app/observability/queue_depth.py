"""The messages of each queue by state, read from the database at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from app.core.settings import get_settings
from app.observability import probe
from app.observability.database_collector import DatabaseCollector
from app.observability.queues import OTHER
from celery_postgres.operations import QueueDepth

#: Counting stops here: this many means as many or more.
CAP = 10_001
#: How many queues have series of their own. Anybody who may publish can declare queues.
NAMED = 100
#: How many of the other queues with messages are counted.
WALKED = 1_000


@dataclass(frozen=True, slots=True)
class Depths:
    """The queues, and the dead letters by queue: all of them, and those of the last 15 minutes."""

    queues: list[QueueDepth]
    dead: dict[str, int]
    recently_dead: dict[str, int]


_GAUGES = (
    ("celery_queue_ready", f"Messages that a worker could claim now; {CAP} means as many or more.", "ready"),
    ("celery_queue_delayed", f"Messages scheduled for later; {CAP} means as many or more.", "scheduled"),
    ("celery_queue_claimed", f"Messages that workers have claimed; {CAP} means as many or more.", "claimed"),
    (
        "celery_queue_oldest_ready_age_seconds",
        "For how long the oldest ready message has been ready.",
        "oldest_s",
    ),
    (
        "celery_queue_consumers",
        "Processes that consume; for other, of the queue with ready messages that has the fewest.",
        "consumers",
    ),
)


class QueueDepthCollector(DatabaseCollector):
    """Gauges of all durable queues, also those of other workers: `NAMED` of them by name, the rest as `other`.

    Every worker shows the same numbers: take the maximum over workers, not the sum.
    """

    what = "queue depth"

    def read(self) -> Iterator[Metric]:
        depths = read_queues()
        for name, text, field in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=["queue"])
            for row in depths.queues:
                value = getattr(row, field)
                if value is not None:
                    family.add_metric([row.queue], value)
            yield family
        for name, text, dead in (
            ("celery_dead_letters", f"Dead letters; {CAP} in all means as many or more.", depths.dead),
            ("celery_dead_letters_recent", "Of these, the ones of the last 15 minutes.", depths.recently_dead),
        ):
            family = GaugeMetricFamily(name, text, labels=["queue"])
            for queue in dict.fromkeys([*(row.queue for row in depths.queues), OTHER]):
                family.add_metric([queue], dead.get(queue, 0))
            yield family


def read_queues(first: Sequence[str] = ()) -> Depths:
    """Read the queues and their dead letters.

    Args:
        first: queues that are shown by name before any others.

    Raises:
        psycopg2.Error: no answer within about `probe.TIMEOUT_S`.
    """
    with probe.reading(get_settings()) as monitor:
        queues = monitor.queue_depths(first=first, named=NAMED, walked=WALKED, cap=CAP)
        named = [row.queue for row in queues if row.queue != OTHER]
        dead = monitor.dead_letter_counts(named, cap=CAP)
    return Depths(queues, {row.queue: row.count for row in dead}, {row.queue: row.recent for row in dead})
