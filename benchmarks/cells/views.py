"""What each view of the console costs the database: with a million tasks waiting and many more ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from statistics import median
from typing import Any

from benchmarks.cells import Cell, spread
from benchmarks.run import Run
from benchmarks.systems import System
from benchmarks.systems.clusters import connect
from celery_postgres.database.address import parsed
from celery_postgres.database.reader import Reader
from celery_postgres.readmodel import ReadModel, State, TaskFilter, observing

_QUEUES, _WORKERS, _DEAD = 300, 200, 10_000
#: A message as Celery writes it.
_PAYLOAD = (
    """'{"body": "' || repeat('W1tdLCB7fSwg', 20) || '", "content-encoding": "utf-8", "content-type": """
    """"application/json", "headers": {"lang": "py", "task": "mine.task' || n %% 30 || '", "id": "' || """
    """md5(n::text)::uuid || '", "argsrepr": "()", "kwargsrepr": "{}", "origin": "gen1@host", "stamps": {}}, """
    """"properties": {"correlation_id": "x", "delivery_mode": 2, "body_encoding": "base64"}}'"""
).replace("%%", "%")
_COMMON = f"SELECT {_PAYLOAD}, md5(n::text)::uuid::text, md5((n % 50)::text)::uuid"
#: Two thirds wait in one queue, the others in all; some are scheduled, and each worker has claimed 64.
_FILL = (
    f"INSERT INTO kombu_queue (name, consumed) SELECT 'queue-' || n, true FROM generate_series(1, {_QUEUES}) AS n",
    f"INSERT INTO kombu_consumer (hostname, pid) SELECT 'host-' || n, n FROM generate_series(1, {_WORKERS}) AS n",
    "INSERT INTO kombu_subscription (queue_id, consumer_id) SELECT queue.id, consumer.id"
    " FROM kombu_queue AS queue, kombu_consumer AS consumer WHERE queue.id % 20 = consumer.id % 20",
    "INSERT INTO kombu_message (payload, task_id, tenant_id, queue_id, priority)"
    f" {_COMMON}, q.id + CASE WHEN n % 3 = 0 THEN n % {_QUEUES} ELSE 0 END, CASE WHEN n % 3 = 0 THEN n % 10 ELSE 0 END"
    " FROM (SELECT min(id) AS id FROM kombu_queue) AS q, generate_series(1, WAITING) AS n",
    "INSERT INTO kombu_message (payload, task_id, tenant_id, queue_id, available_at)"
    f" {_COMMON}, q.id + n % {_QUEUES}, now() + n * interval '1 second'"
    " FROM (SELECT min(id) AS id FROM kombu_queue) AS q, generate_series(1, WAITING / 10) AS n",
    "INSERT INTO kombu_message (payload, task_id, tenant_id, queue_id, visible, consumer_id, claimed_at)"
    f" {_COMMON}, q.id + n % {_QUEUES}, false, c.id + n % {_WORKERS}, now()"
    " FROM (SELECT min(id) AS id FROM kombu_queue) AS q, (SELECT min(id) AS id FROM kombu_consumer) AS c,"
    f" generate_series(1, {64 * _WORKERS}) AS n",
    "INSERT INTO kombu_dead_letter (payload, task_id, tenant_id, message_id, failures, queue, reason, died_at)"
    f" {_COMMON}, n, 3, 'queue-' || n % {_QUEUES}, 'failed ' || n % 3 || ' times', now() - n * interval '1 second'"
    f" FROM generate_series(1, {_DEAD}) AS n",
    "INSERT INTO celery_taskmeta (id, task_id, status, date_done, name, queue, worker, retries, result)"
    " SELECT nextval('task_id_sequence'), md5(n::text)::uuid, CASE WHEN n % 100 = 0 THEN 'FAILURE' ELSE 'SUCCESS' END,"
    " timezone('UTC', now()) - n * interval '40 milliseconds', 'mine.task' || n % 30, 'queue-' || n % 300,"
    " 'worker-' || n % 200, 0, 'x' FROM generate_series(1, ENDED) AS n",
    "ANALYZE",
)
_REPEATED = 7


def views(model: ReadModel) -> dict[str, Callable[[], object]]:
    """What a page reads, by its name."""
    tenant = "c4ca4238-a0b9-2382-0dcc-509a6f75849b"  # md5 of 1

    def tasks(**conditions: Any) -> Callable[[], object]:
        return partial(model.tasks, TaskFilter(**conditions))

    return {
        "overview": model.overview,
        "a long queue": partial(model.queue, "queue-1"),
        "a queue": partial(model.queue, "queue-7"),
        "tasks": tasks(),
        "waiting": tasks(state=State.WAITING, queue="queue-1"),
        "waiting of a tenant": tasks(state=State.WAITING, queue="queue-1", tenant=tenant),
        "waiting by name": tasks(state=State.WAITING, queue="queue-1", task="task7"),
        "scheduled": tasks(state=State.SCHEDULED),
        "running": tasks(state=State.RUNNING),
        "failed": tasks(state=State.FAILED),
        "ended by name and queue": tasks(state=State.SUCCEEDED, task="task7", queue="queue-7"),
        "dead letters": model.dead_letters,
        "a group of dead letters": tasks(state=State.DEAD, reason="failed 1 times", whole_task="mine.task7"),
        "a task": partial(model.task, "c4ca4238-a0b9-2382-0dcc-509a6f75849b"),
        "an id": partial(model.find, "c4ca4238"),
    }


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """The time of the SQL of each view in milliseconds, without the first reading."""
    with system.fresh() as broker:
        url = str(broker.url)  # type: ignore[attr-defined]
        counts = {"WAITING": run.pick(100_000, 1_000_000), "ENDED": run.pick(100_000, 3_000_000)}
        with closing(connect(url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in _FILL:
                    for name, count in counts.items():
                        statement = statement.replace(name, str(count))
                    cursor.execute(statement)
        spent: list[float] = []
        read = Reader.run

        def timed(reader: Reader, name: str, **parameters: Any) -> Any:
            begun = time.perf_counter()
            try:
                return read(reader, name, **parameters)
            finally:
                spent.append((time.perf_counter() - begun) * 1000)

        Reader.run = timed  # type: ignore[method-assign]
        try:
            return _timed_views(ReadModel(parsed(url, "broker")), spent)
        finally:
            Reader.run = read  # type: ignore[method-assign]


def _timed_views(model: ReadModel, spent: list[float]) -> dict[str, Any]:
    found, fresh_s = {}, observing.FRESH_S
    for name, view in views(model).items():
        times = []
        for _ in range(_REPEATED + 1):
            spent.clear()
            if name == "overview":
                observing.FRESH_S = 0.0
            view()
            observing.FRESH_S = fresh_s
            times.append(sum(spent))
        found[name] = median(times[1:])
    model.close()
    return found


CELL = Cell(
    "views",
    lambda run: run.present("ours"),
    measure,
    repetitions=2,
    deadline_s=400,
    printed={
        "views": [
            (f"{name}, ms", spread("", name))
            for name in (
                "overview", "a long queue", "a queue", "tasks", "waiting", "waiting of a tenant", "waiting by name",
                "scheduled", "running", "failed", "ended by name and queue", "dead letters",
                "a group of dead letters", "a task", "an id",
            )
        ]
    },
)  # fmt: skip
