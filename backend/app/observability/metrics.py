"""The worker's metrics, in prometheus_client's default registry.

`celery_tasks_total` counts deliveries, each once, when it is settled:

    success, failure, revoked, ignored   the task has ended
    retry                                it will come again, as a new message
    rejected                             the task refused it, or its process was lost and it comes again, or it
                                         could not be read; task="unknown" if no task of this worker was named

Work is at least once: a redelivered task has one count for each delivery. Duration is from acceptance by the
pool to the outcome: how long the task held its slot, storing the result included.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from celery import Celery, signals
from celery.concurrency.prefork import TaskPool
from celery.worker import state
from prometheus_client import Counter, Histogram, Metric, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

import celery_postgres
from app.core.context import ENQUEUED_HEADER
from app.observability import multiprocess
from app.observability.multiprocess import counting
from app.observability.queues import OTHER, queue_of

#: The label of a task that the application does not have: names from outside create no time series.
UNKNOWN = "unknown"
#: The number of pairs of task and queue that have series from the start, for the states that alerts count.
FROM_ZERO = 200
STATES_FROM_ZERO = ("success", "failure", "revoked")
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900)
CLAIM_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900, 3600, 14_400, 86_400)

TASKS = Counter("celery_tasks_total", "Deliveries, by outcome.", ["task", "queue", "state"])
RETRIES = Counter("celery_task_retries_total", "Retries that tasks requested.", ["task", "queue"])
DURATION = Histogram(
    "celery_task_duration_seconds",
    "From acceptance by the pool to the outcome.",
    ["task", "queue"],
    buckets=DURATION_BUCKETS,
)
QUEUE_WAIT = Histogram(
    "celery_task_queue_wait_seconds",
    "From enqueueing or ETA, whichever was later, to acceptance by the pool.",
    ["queue"],
    buckets=WAIT_BUCKETS,
)
CLAIM_DURATION = Histogram(
    "celery_claim_duration_seconds",
    "Round trips to the database that asked for tasks and acknowledged others, by whether they brought any.",
    ["found"],
    buckets=CLAIM_BUCKETS,
)
CLAIM_SIZE = Histogram(
    "celery_claim_batch_size", "Tasks of claims that brought any.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500)
)
CLAIM_FAILURES = Counter("celery_claim_failures_total", "Claims that the database refused or did not answer.")
EXPIRED_LEASES = Counter(
    "celery_expired_leases_total", "Messages released from workers that this one found dead; they run again."
)


class BrokerObserver(celery_postgres.Observer):
    """Counts what the broker does."""

    def claimed(self, seconds: float, messages: int) -> None:
        with counting:
            CLAIM_DURATION.labels("yes" if messages else "no").observe(seconds)
            if messages:
                CLAIM_SIZE.observe(messages)

    def claim_failed(self) -> None:
        count_failed_claim()

    def lease_expired(self, messages: int) -> None:
        with counting:
            EXPIRED_LEASES.inc(messages)


class SlotsCollector(Collector):
    """The pool's slots, and how many of them tasks occupy now. `celery_task_duration_seconds` counts a task only when
    it has ended, with all of its time at once.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("celery_worker_busy_slots", "Slots that tasks hold.", len(state.active_requests))
        pool = getattr(self._worker, "pool", None)  # None before it starts
        if pool is not None:
            # Prefork alone counts slots that were added later there; gevent's num_processes are the busy ones.
            slots = pool.num_processes if isinstance(pool, TaskPool) else pool.limit
            yield GaugeMetricFamily("celery_worker_slots", "Tasks that the pool can run at once.", slots)


_observer = BrokerObserver()


def install(app: Celery) -> None:
    """Make `app`'s workers count. Safe to call again; the registry is one per process."""
    celery_postgres.observe(_observer)
    # A second series for each metric, which prefork's files do not have anyway.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    signals.worker_init.connect(multiprocess.on_worker_init, weak=False)
    signals.celeryd_after_setup.connect(_on_setup, weak=False)
    signals.task_unknown.connect(_on_unreadable, weak=False)
    signals.task_rejected.connect(_on_unreadable, weak=False)
    signals.task_revoked.connect(_on_revoked, weak=False)
    signals.before_task_publish.connect(_stamp, weak=False)


def count(task: str, queue: str, state: str, duration: float | None) -> None:
    """Count one delivery that ended in `state`, `duration` seconds after the pool accepted it."""
    with counting:
        TASKS.labels(task, queue, state).inc()
        if duration is not None:
            DURATION.labels(task, queue).observe(duration)
        if state == "retry":
            RETRIES.labels(task, queue).inc()


def count_failed_claim() -> None:
    """Tasks could not be claimed."""
    with counting:
        CLAIM_FAILURES.inc()


def begin_at_zero(app: Celery) -> None:
    """Export the outcomes of `app`'s tasks in the queues that it consumes before there are any: Prometheus sees no
    increase in a series that begins with its first failures. The application's own tasks come first.
    """
    tasks = sorted(app.tasks, key=lambda name: (name.startswith("celery."), name))
    pairs = itertools.islice(((task, queue) for task in tasks for queue in app.amqp.queues.consume_from), FROM_ZERO)
    with counting:
        for (task, queue), state in itertools.product(pairs, STATES_FROM_ZERO):
            TASKS.labels(task, queue, state)


def observe_wait(queue: str, seconds: float) -> None:
    """Record that a task was accepted, `seconds` after it could have been."""
    with counting:
        QUEUE_WAIT.labels(queue).observe(seconds)


def _on_setup(instance: Any, **_: Any) -> None:
    begin_at_zero(instance.app)


def _stamp(headers: dict[str, Any], **_: Any) -> None:
    """Record when the wait begins, for every way of sending the task; a retry waits anew."""
    headers[ENQUEUED_HEADER] = time.time()


def _on_unreadable(sender: Any, message: Any, **_: Any) -> None:
    """A message that names no task of ours, or whose body does not decode or fit."""
    name = (message.headers or {}).get("task")
    task = name if isinstance(name, str) and name in sender.app.tasks else UNKNOWN
    count(task, queue_of(sender.app, message.delivery_info) or OTHER, "rejected", None)


def _on_revoked(sender: Any, request: Any, **_: Any) -> None:
    count(sender.name, queue_of(sender.app, request.delivery_info) or OTHER, "revoked", None)
