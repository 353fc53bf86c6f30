"""A database as the console may find it: a million tasks wait, ten million have ended, and all else is as large."""

from __future__ import annotations

from hashlib import md5
from typing import Any
from uuid import UUID

QUEUES, FAIR, WORKERS, DEAD = 300, 5, 200, 10_000
#: Queues that are not fair.
_PLAIN = QUEUES - FAIR
#: A message as Celery writes it.
_PAYLOAD = (
    """'{"body": "' || repeat('W1tdLCB7fSwg', 20) || '", "content-encoding": "utf-8", "content-type": """
    """"application/json", "headers": {"lang": "py", "task": "mine.task' || n %% 30 || '", "id": "' || """
    """md5(n::text)::uuid || '", "argsrepr": "()", "kwargsrepr": "{}", "origin": "gen1@host", "stamps": {}}, """
    """"properties": {"correlation_id": "x", "delivery_mode": 2, "body_encoding": "base64"}}'"""
).replace("%%", "%")
_TENANT = "md5((n % 50)::text)::uuid"
_COMMON = f"SELECT {_PAYLOAD}, md5(n::text)::uuid::text, {_TENANT}"
_FIRST_QUEUE = "(SELECT min(id) AS id FROM kombu_queue) AS q"
_FIRST_WORKER = "(SELECT min(id) AS id FROM kombu_consumer) AS c"
_COUNTED = (
    "n % 9 + 1, n % 9, (n % 50 = 0)::integer, (n % 40 = 0)::integer, "
    "array_fill(n % 7, '{16}'), array_fill(n % 5, '{16}')"
)
#: Each queue runs two tasks.
_TASK_OF_QUEUE = "'mine.task' || (queue + 7 * part) % 30"
#: One of a hundred failed, at 40 ms from one to the next. A tenth are of canvases of twenty, the first of one of
#: a hundred.
_ENDED = (
    "INSERT INTO celery_taskmeta (id, task_id, status, date_done, name, queue, worker, retries, result, traceback,"
    " tenant_id, root_id, parent_id, published_at, started_at)"
    " SELECT nextval('task_id_sequence'), md5(n::text)::uuid, CASE WHEN n % 100 = 0 THEN 'FAILURE' ELSE 'SUCCESS' END,"
    " timezone('UTC', now()) - n * interval '40 milliseconds', 'mine.task' || n % 30, 'queue-' || n % 300,"
    " 'worker-' || n % 200, 0, 'x', CASE WHEN n % 100 = 0 THEN 'Traceback: ' || repeat('a line of it ', 40) END,"
    f" {_TENANT}, md5(root.number::text)::uuid, md5(root.number::text)::uuid,"
    " now() - n * interval '40 milliseconds' - interval '3 seconds', now() - n * interval '40"
    " milliseconds' - interval '1 second'"
    " FROM generate_series(FROM_ENDED, TO_ENDED) AS n CROSS JOIN LATERAL"
    " (SELECT CASE WHEN n BETWEEN 2 AND 100 THEN 1 WHEN n % 20 <> 0 AND n % 1000 > 900 THEN n - n %"
    " 20 END AS number) AS root"
)
_ENDED_AT_ONCE = 500_000
_FILL = (
    f"INSERT INTO kombu_queue (name, consumed, fair) SELECT 'queue-' || n, true, n > {_PLAIN}"
    f" FROM generate_series(1, {QUEUES}) AS n",
    "INSERT INTO kombu_consumer (hostname, pid, name, pool, slots, app_version, beat_at, busy, running)"
    " SELECT 'host-' || n, n, 'celery@host-' || n, 'prefork', 8, '1.' || n % 2, now(), 8, ("
    "   SELECT jsonb_agg(jsonb_build_object('id', md5(m::text)::uuid, 'task', 'mine.task' || m % 30, 'for_s', m))"
    "   FROM generate_series(n, n + 7) AS m"
    f" ) FROM generate_series(1, {WORKERS}) AS n",
    "INSERT INTO kombu_subscription (queue_id, consumer_id) SELECT queue.id, consumer.id"
    " FROM kombu_queue AS queue, kombu_consumer AS consumer WHERE queue.id % 20 = consumer.id % 20",
    # Two thirds wait in one queue, the others in all.
    "INSERT INTO kombu_message (payload, task_id, tenant_id, queue_id, priority)"
    f" {_COMMON}, q.id + CASE WHEN n % 3 = 0 THEN n % {_PLAIN} ELSE 0 END, CASE WHEN n % 3 = 0 THEN n % 10 ELSE 0 END"
    f" FROM {_FIRST_QUEUE}, generate_series(1, WAITING * 9 / 10) AS n",
    # A tenth in fair queues, of 5,000 keys.
    "INSERT INTO kombu_message (payload, task_id, tenant_id, queue_id, flow_key, available_at)"
    f" {_COMMON}, q.id + {_PLAIN} + n % {FAIR}, hashtextextended('key-' || n % 5000, 0), now()"
    f" FROM {_FIRST_QUEUE}, generate_series(WAITING * 9 / 10, WAITING) AS n",
    "INSERT INTO kombu_message (payload, task_id, tenant_id, queue_id, available_at)"
    f" {_COMMON}, q.id + n % {_PLAIN}, now() + n * interval '1 second'"
    f" FROM {_FIRST_QUEUE}, generate_series(1, WAITING / 10) AS n",
    # Each worker has claimed 64.
    "INSERT INTO kombu_message (payload, task_id, tenant_id, queue_id, visible, consumer_id, claimed_at, flow_key)"
    f" {_COMMON}, q.id + n % {QUEUES}, false, c.id + n % {WORKERS}, now(),"
    f" CASE WHEN n % {QUEUES} >= {_PLAIN} THEN hashtextextended('key-' || n % 700, 0) END"
    f" FROM {_FIRST_QUEUE}, {_FIRST_WORKER}, generate_series(1, {64 * WORKERS}) AS n",
    "INSERT INTO kombu_limit (queue_id, key, flow_key, max_running)"
    " SELECT queue.id, 'key-' || n, hashtextextended('key-' || n, 0), 5 FROM generate_series(1,"
    " 1000) AS n, kombu_queue AS queue"
    " WHERE queue.fair",
    "INSERT INTO kombu_limit (queue_id, key, max_running) SELECT id, '*', 9 FROM kombu_queue WHERE fair",
    "INSERT INTO kombu_limit (queue_id, key, flow_key, max_running) SELECT id, '', 0, 9999 FROM kombu_queue WHERE fair",
    "INSERT INTO kombu_dead_letter (payload, task_id, tenant_id, message_id, failures, queue, reason, died_at)"
    f" {_COMMON}, n, 3, 'queue-' || n % {QUEUES}, 'failed ' || n % 3 || ' times', now() - n * interval '1 second'"
    f" FROM generate_series(1, {DEAD}) AS n",
    # Half of the attempts are of tasks with a result; the others have none. The first task has been tried twenty times.
    "INSERT INTO celery_attempt (task_id, state, name, queue, tenant_id, worker, retries,"
    " published_at, started_at, ended_at,"
    " error, traceback, recorded_at)"
    " SELECT CASE WHEN n <= 20 THEN md5('1')::uuid::text WHEN n % 2 = 0 THEN md5((50 * n)::text)::uuid::text"
    " ELSE md5('past' || n)::uuid::text END,"
    " (ARRAY['failed', 'retried', 'lost', 'revoked', 'dead'])[n % 5 + 1], 'mine.task' || n % 30, 'queue-' || n % 300,"
    f" {_TENANT}, 'worker-' || n % 200, n % 4, at - interval '9 seconds', at - interval '5 seconds', at,"
    " 'ValueError: ' || n % 40, 'Traceback: ' || repeat('a line of it ', 40), at"
    " FROM generate_series(ATTEMPTS, 1, -1) AS n, LATERAL (SELECT now() - n * interval '600"
    " milliseconds' AS at) AS one",
    # Minutes of all workers together, and those of each worker of the last three.
    f"INSERT INTO celery_minute SELECT date_trunc('minute', now()) - n * interval '1 minute', 0, 'queue-' || queue,"
    f" {_TASK_OF_QUEUE}, {_COUNTED} FROM generate_series(MINUTES, 4, -1) AS n, generate_series(1, {QUEUES}) AS queue,"
    " generate_series(0, 1) AS part",
    "INSERT INTO celery_minute SELECT date_trunc('minute', now()) - n * interval '1 minute',"
    " worker.id, 'queue-' || queue,"
    f" {_TASK_OF_QUEUE}, {_COUNTED} FROM generate_series(3, 0, -1) AS n, kombu_consumer AS worker,"
    f" generate_series(1, {QUEUES}) AS queue, generate_series(0, 1) AS part WHERE queue % 20 = worker.id % 20",
    "INSERT INTO celery_hour SELECT date_trunc('hour', now()) - MINUTES / 60 * interval '1 hour' -"
    " n * interval '1 hour',"
    f" 'queue-' || queue, {_TASK_OF_QUEUE}, {_COUNTED} FROM generate_series(HOURS, 0, -1) AS n,"
    f" generate_series(1, {QUEUES}) AS queue, generate_series(0, 1) AS part",
    "INSERT INTO celery_depth SELECT date_trunc('minute', now()) - n * interval '1 minute',"
    " 'queue-' || queue, n % 900, n % 60"
    f" FROM generate_series(MINUTES, 0, -1) AS n, generate_series(1, {QUEUES}) AS queue",
    "INSERT INTO celery_beat (id, hostname, pid, entries) SELECT 1, 'host-1', 7, array_agg('entry-' || n)"
    " FROM generate_series(1, 300) AS n",
    "INSERT INTO celery_beat_entry (name, last_run_at, runs, task, schedule, next_run_at, sent_at, last_task_id)"
    " SELECT 'entry-' || n, now() - n * interval '1 second', n, 'mine.task' || n % 30, 'every 10 minutes',"
    " now() + n * interval '1 second', now() - n * interval '1 second', md5(n::text)::uuid FROM"
    " generate_series(1, 300) AS n",
    "INSERT INTO console_action (source, actor, action, subject, began_at, ended_at, planned, done)"
    " SELECT 'console', 'someone', 'pause', 'queue-' || n % 300, now() - n * interval '1 minute',"
    " now() - n * interval '1 minute',"
    " 1, 1 FROM generate_series(10000, 1, -1) AS n",
    "INSERT INTO kombu_lost_consumer (id, hostname, pid, started_at, claimed, lost_at)"
    " SELECT n, 'host-' || n, n, now() - interval '1 day', n, now() - n * interval '1 minute' FROM"
    " generate_series(1, 1000) AS n",
)  # fmt: skip


def fill(connection: Any, *, waiting: int, ended: int, attempts: int, minutes: int, hours: int) -> None:
    """Fill an empty database, on a connection in autocommit.

    Args:
        waiting: messages that wait; a tenth as many are scheduled.
        ended: results of tasks.
        attempts: that did not simply succeed.
        minutes: counts of so many minutes, and below them
        hours: of so many hours.
    """
    counts = {"WAITING": waiting, "ATTEMPTS": attempts, "MINUTES": minutes, "HOURS": hours}
    with connection.cursor() as cursor:
        for statement in _FILL:
            for name, count in counts.items():
                statement = statement.replace(name, str(count))
            cursor.execute(statement)
        for first in range(1, ended + 1, _ENDED_AT_ONCE):
            last = min(first + _ENDED_AT_ONCE - 1, ended)
            cursor.execute(_ENDED.replace("FROM_ENDED", str(first)).replace("TO_ENDED", str(last)))
        cursor.execute("VACUUM (ANALYZE)")


def task_id(number: int) -> str:
    """The id of the task with this number."""
    return str(UUID(md5(str(number).encode()).hexdigest()))  # noqa: S324  # as the server makes it
