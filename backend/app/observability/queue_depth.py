"""How much is waiting in the queues, read from the broker's tables at each scrape."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.core.settings import get_settings
from app.observability import probe
from app.observability.faults import database_text

logger = logging.getLogger(__name__)

DEPTH_SQL = (Path(__file__).parent / "queue_depth.sql").read_text()
DEAD_SQL = (Path(__file__).parent / "dead_letters.sql").read_text()
#: No count of messages says more than this.
CAP = 10_001
_GAUGES = (
    ("celery_queue_ready", f"Messages that wait to be taken; {CAP} means as many or more."),
    ("celery_queue_delayed", f"Messages that are not yet due; {CAP} means as many or more."),
    ("celery_queue_claimed", f"Messages that workers hold; {CAP} means as many or more."),
    ("celery_queue_oldest_ready_age_seconds", "For how long the message that waits longest could have been taken."),
)


class QueueDepthCollector(Collector):
    """Gauges by queue, of the queues that the application declares; `celery_dead_letters` also of `other` queues.

    When the database does not answer in time there are no samples, rather than old ones. Every worker shows the
    same numbers: take the maximum over workers, not the sum.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._failed = False
        # Many clients of /metrics are still one client of the database.
        self._turn = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        queues = list(self._app.amqp.queues)
        try:
            with self._turn:
                depths, dead = read_queues(queues)
        except psycopg2.Error as error:
            if not self._failed:  # once for each outage: a scrape comes every few seconds
                logger.warning("queue depth cannot be read: %s", database_text(error))
            self._failed = True
            return
        self._failed = False
        for number, (name, text) in enumerate(_GAUGES, 1):
            family = GaugeMetricFamily(name, text, labels=["queue"])
            for row in depths:
                family.add_metric([row[0]], row[number])
            yield family
        family = GaugeMetricFamily(
            "celery_dead_letters", f"Messages set aside; {CAP} in all means as many or more.", labels=["queue"]
        )
        for queue in dict.fromkeys([*queues, *dead]):
            family.add_metric([queue], dead.get(queue, 0))
        yield family


def read_queues(queues: list[str]) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """Of each of `queues` that exists its name, ready, delayed and claimed messages and the oldest ready one's age in
    seconds; and the dead letters by queue.

    Raises:
        psycopg2.Error: no answer within about `probe.TIMEOUT_S`.
    """
    with closing(probe.connect(get_settings())) as connection, probe.limited(connection) as cursor:
        # With fresh statistics the planner takes the indexes anyway; without, it may read all delivered messages
        # before it finds the first waiting one.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(DEPTH_SQL, {"queues": queues, "cap": CAP})
        depths = cursor.fetchall()
        cursor.execute(DEAD_SQL, {"queues": queues, "cap": CAP})
        return depths, {str(queue): int(count) for queue, count in cursor.fetchall()}
