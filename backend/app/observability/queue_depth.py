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

SQL = (Path(__file__).parent / "queue_ready.sql").read_text()
#: `celery_queue_ready` says at most this.
CAP = 10_001


class QueueDepthCollector(Collector):
    """`celery_queue_ready{queue}` of the queues that the application declares.

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
        family = GaugeMetricFamily(
            "celery_queue_ready", f"Messages that wait to be taken; {CAP} means as many or more.", labels=["queue"]
        )
        try:
            with self._turn:
                ready = read_ready(list(self._app.amqp.queues))
        except psycopg2.Error as error:
            if not self._failed:  # once for each outage: a scrape comes every few seconds
                logger.warning("queue depth cannot be read: %s", database_text(error))
            self._failed = True
            return
        self._failed = False
        for queue, messages in ready:
            family.add_metric([queue], messages)
        yield family


def read_ready(queues: list[str]) -> list[tuple[str, int]]:
    """Name and number of waiting messages of each of `queues` that exists.

    Raises:
        psycopg2.Error: no answer within about `probe.TIMEOUT_S`.
    """
    with closing(probe.connect(get_settings())) as connection, probe.limited(connection) as cursor:
        # With fresh statistics the planner takes the index anyway; without, it may read all delivered messages
        # before it finds the first waiting one.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(SQL, {"queues": queues, "cap": CAP})
        return [(str(queue), int(messages)) for queue, messages in cursor.fetchall()]
