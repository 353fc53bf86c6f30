"""Metrics that are read from the database at each scrape."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

import psycopg2
from prometheus_client import Metric
from prometheus_client.registry import Collector

from app.observability.faults import brief, database_text

logger = logging.getLogger(__name__)


class DatabaseCollector(Collector, ABC):
    """When the database does not answer in time there are no samples, rather than old ones.

    Attributes:
        what: completes the sentence "… cannot be read".
    """

    what: ClassVar[str]

    def __init__(self) -> None:
        self._failed = False
        # All clients of /metrics together are one client of the database.
        self._turn = threading.Lock()

    @abstractmethod
    def read(self) -> Iterator[Metric]:
        """Read the metrics.

        Raises:
            psycopg2.Error: no answer within about `probe.TIMEOUT_S`.
        """

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with self._turn:
                families = list(self.read())
        except Exception as error:  # also of a value that nobody thought of: the other metrics are shown
            if not self._failed:  # once for each outage: a scrape comes every few seconds
                why = database_text(error) if isinstance(error, psycopg2.Error) else brief(error)
                logger.warning("%s cannot be read: %s", self.what, why)
            self._failed = True
            return
        self._failed = False
        yield from families
