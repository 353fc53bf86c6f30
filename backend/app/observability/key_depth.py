"""The keys of fair queues with most messages, read from the database at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from app.core.settings import get_settings
from app.observability import probe
from app.observability.database_collector import DatabaseCollector

#: Fair queues that are looked at, and keys of each; a thousand keys with many messages are some 100 ms.
QUEUES = 10
WALKED = 500
#: Keys of a queue that have series, by what waits, and as many by what runs: at most 100 series of a metric.
TOP = 5
#: Counting stops here: this many means as many or more.
CAP = 1_001

_OF_QUEUES = (
    ("celery_keys_waiting", f"Keys with ready messages; {WALKED} means as many or more.", "waiting"),
    ("celery_keys_at_limit", "Of these, the ones whose concurrency allows no other task now.", "at_limit"),
    ("celery_keys_throttled", "Of these, the ones whose rate allows no other task now.", "throttled"),
)
_OF_KEYS = (
    ("celery_key_waiting", f"Ready messages of the keys with most; {CAP} means as many or more.", "waiting"),
    ("celery_key_running", f"Claimed messages of the keys with most; {CAP} means as many or more.", "running"),
)


class KeyDepthCollector(DatabaseCollector):
    """Gauges of fair queues: how many keys wait, and the keys with most messages, by the hash of the key.

    Every worker shows the same numbers: take the maximum over workers, not the sum.
    """

    what = "keys of fair queues"

    def read(self) -> Iterator[Metric]:
        with probe.reading(get_settings()) as monitor:
            counts, depths = monitor.key_depths(named=QUEUES, walked=WALKED, top=TOP, cap=CAP)
        for name, text, field in _OF_QUEUES:
            family = GaugeMetricFamily(name, text, labels=["queue"])
            for count in counts:
                family.add_metric([count.queue], getattr(count, field))
            yield family
        for name, text, field in _OF_KEYS:
            family = GaugeMetricFamily(name, text, labels=["queue", "key"])
            for depth in depths:
                family.add_metric([depth.queue, depth.key], getattr(depth, field))
            yield family
