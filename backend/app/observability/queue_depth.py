"""How much is waiting in the queues, read from the broker's tables at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from app.core.settings import get_settings
from app.observability import probe
from app.observability.database_collector import DatabaseCollector
from app.observability.queues import OTHER

DEPTH_SQL = probe.STATEMENTS["queue_depth"].direct
DEAD_SQL = probe.STATEMENTS["dead_letters_by_queue"].direct
#: No count of messages says more than this.
CAP = 10_001
#: So many queues have series of their own. Names come from whoever declares queues.
NAMED = 100
#: Of the others, so many with messages are looked at.
WALKED = 1_000


class Depth(NamedTuple):
    """What is in a queue; of `other`, `consumers` is None while nothing is ready."""

    name: str
    ready: int
    delayed: int
    claimed: int
    oldest_s: float
    consumers: int | None


class Depths(NamedTuple):
    """What is in the queues, and by queue what is dead: in all, and of the last 15 minutes."""

    queues: list[Depth]
    dead: dict[str, int]
    recently_dead: dict[str, int]


_GAUGES = (
    ("celery_queue_ready", f"Messages that wait to be taken; {CAP} means as many or more.", "ready"),
    ("celery_queue_delayed", f"Messages that are not yet due; {CAP} means as many or more.", "delayed"),
    ("celery_queue_claimed", f"Messages that workers hold; {CAP} means as many or more.", "claimed"),
    (
        "celery_queue_oldest_ready_age_seconds",
        "For how long the message that waits longest could have been taken.",
        "oldest_s",
    ),
    (
        "celery_queue_consumers",
        "Processes that consume; of other, of the queue with ready messages that has fewest.",
        "consumers",
    ),
)


class QueueDepthCollector(DatabaseCollector):
    """Gauges of all durable queues of the broker, whoever consumes them: of `NAMED` by name, of the rest as `other`.
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
                    family.add_metric([row.name], value)
            yield family
        for name, text, dead in (
            ("celery_dead_letters", f"Messages set aside; {CAP} in all means as many or more.", depths.dead),
            ("celery_dead_letters_recent", "Of these, the ones of the last 15 minutes.", depths.recently_dead),
        ):
            family = GaugeMetricFamily(name, text, labels=["queue"])
            for queue in dict.fromkeys([*(row.name for row in depths.queues), OTHER]):
                family.add_metric([queue], dead.get(queue, 0))
            yield family


def read_queues(first: Sequence[str] = ()) -> Depths:
    """What is in the queues; those in `first` by name before any others.

    Raises:
        psycopg2.Error: no answer within about `probe.TIMEOUT_S`.
    """
    with probe.reading(get_settings()) as read:
        queues = [Depth(*row) for row in read("queue_depth", first=list(first), named=NAMED, walked=WALKED, cap=CAP)]
        named = [row.name for row in queues if row.name != OTHER]
        rows = read("dead_letters_by_queue", queues=named, cap=CAP)
    dead = [(str(queue), int(count), int(recent)) for queue, count, recent in rows]
    return Depths(queues, {queue: n for queue, n, _ in dead}, {queue: n for queue, _, n in dead})
