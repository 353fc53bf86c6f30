"""The broker of one bad night, as rows: what the pages of the console are tested with, and their pictures show."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import psycopg2
from psycopg2.extras import execute_values, register_uuid

from celery_postgres import operations
from celery_postgres.database.histogram import CLASSES, class_of
from environment.testkit.stock_rows import payload

_NAMES = UUID(int=0xC0115)
ACME, BOREALIS = UUID(int=0xA), UUID(int=0xB)
#: What a failed task stored: the message quotes data, which only some may see.
TRACEBACK = """\
Traceback (most recent call last):
  File "/srv/.venv/lib/python3.11/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
  File "/srv/app/tasks/llm.py", line 118, in explanation
    answer = provider.complete(request, timeout=30)
  File "/srv/app/tasks/llm_provider.py", line 64, in complete
    raise ProviderTimeoutError(request) from error
app.tasks.llm_provider.ProviderTimeoutError: no answer for Jane Roe, card 4111 1111 1111 1111
"""
SECRET = "4111 1111"


@dataclass
class Night:
    """What was inserted.

    Attributes:
        ids: of tasks, by what they are in: `waiting`, `failed`, `dead` and the like.
    """

    ids: dict[str, str] = field(default_factory=dict)


def limit(url: str) -> None:
    """Make the queue `llm` fair: each tenant may run 5 tasks at once and begin 120 a minute, and one of them only 1."""
    with closing(operations.connect(url)) as broker:
        broker.set_fair("llm")
        broker.set_limit("llm", key="*", concurrency=5, per_second=2.0, burst=10)
        broker.set_limit("llm", key=str(ACME), concurrency=1)


def canvas(url: str) -> str:
    """A chain with three tasks at once, one of which has failed and one of which waits. Returns the failed one's id."""
    root, budget, failed, waits = (task_id(f"canvas {name}") for name in ("fetch", "budget", "explain", "route"))
    ended = (
        (root, "SUCCESS", "app.tasks.imports.fetch", None, None),
        (budget, "SUCCESS", "app.tasks.llm.budget", root, root),
        (failed, "FAILURE", "app.tasks.llm.explanation", root, root),
    )
    steps = [{"task": name, "options": {"task_id": task_id(name)}} for name in ("mail.send", "reports.compose")]
    body = [[], {}, {"callbacks": None, "errbacks": None, "chain": steps, "chord": None}]
    headers = {"task": "app.tasks.llm.routing", "id": waits, "root_id": root, "parent_id": root}
    sent = json.dumps([[one, None] for one in (budget, failed, waits)]).encode()
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.executemany(_MEMBER, [(*one, sent if one[0] == root else None) for one in ended])
        cursor.execute(
            "INSERT INTO kombu_message (queue_id, payload, task_id)"
            " SELECT id, %s, %s FROM kombu_queue WHERE name = 'mail'",
            [payload(body, "mail", **headers), waits],
        )
    return failed


_MEMBER = """
    INSERT INTO celery_taskmeta (id, task_id, status, name, root_id, parent_id, children, date_done)
    SELECT nextval('task_id_sequence'), one.*, timezone('UTC', now() - interval '3 h')
    FROM (VALUES (%s, %s, %s, %s, %s, %s::bytea)) AS one
"""


def task_id(name: str) -> str:
    """The id of a task by its name here, the same in every run."""
    return str(uuid5(_NAMES, name))


def fill(url: str) -> Night:
    """Insert the night into an empty, migrated database."""
    night = Night()
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        register_uuid(None, cursor)  # type: ignore[no-untyped-call]
        _queues(cursor)
        _schedule(cursor)
        _messages(cursor, night)
        _results(cursor, night)
        _dead_letters(cursor, night)
        _minutes(cursor)
    return night


def message(name: str, queue: str, identity: str, *arguments: Any, **headers: Any) -> str:
    """A payload as Celery publishes it."""
    body = [list(arguments), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    given = {
        "lang": "py",
        "task": name,
        "id": identity,
        "root_id": identity,
        "parent_id": None,
        "retries": 0,
        **headers,
    }
    return payload(body, queue, **given)


#: What a worker reports of the tasks that it runs the longest: names are of its own program, ids of producers.
_RUNNING = json.dumps(
    [{"id": f"running-{number}", "task": "llm.explanation", "for_s": 30.0 / number} for number in range(1, 6)]
)


def _schedule(cursor: Any) -> None:
    """A beat that lives; an entry that is late, one that is not, and one that is disabled."""
    cursor.execute(
        "INSERT INTO celery_beat (id, hostname, pid, timezone, entries, seen_at)"
        " VALUES (1, 'node-a', 4243, 'Europe/Zurich', '{nightly-report,refresh-views,weekly-digest}', now())"
    )
    cursor.execute(
        "INSERT INTO celery_beat_entry (name, last_run_at, runs, task, schedule, next_run_at, enabled) VALUES"
        " ('nightly-report', now() - interval '1 day 12 minutes', 9, 'reports.nightly', 'daily at 03:00',"
        " now() - interval '12 minutes', true),"
        " ('refresh-views', now() - interval '2 minutes', 900, 'maintenance.refresh_views', 'every 5 min',"
        " now() + interval '3 hours', true),"
        " ('weekly-digest', now() - interval '9 days', 4, 'reports.digest', 'cron 0 6 * * 1', NULL, false)"
    )
    cursor.execute(
        "INSERT INTO kombu_lost_consumer (id, hostname, pid, started_at, lost_at, claimed, name, pool, slots,"
        " app_version, queues) VALUES (77, 'node-d', 11, now() - interval '1 day', now() - interval '13 minutes', 8,"
        " 'llm-4@node-d', 'prefork', 8, '2026.11.28', '{llm}')"
    )


def _queues(cursor: Any) -> None:
    for name, paused in (("celery", False), ("llm", False), ("reports", True), ("webhooks", False), ("mail", False)):
        cursor.execute("INSERT INTO kombu_queue (name, paused, consumed) VALUES (%s, %s, true)", [name, paused])
    cursor.execute("INSERT INTO kombu_queue (name, auto_delete) VALUES ('celery@node-a.celery.pidbox', true)")
    for host, version, draining, running, queues in (
        ("llm-1@node-a", "2026.11.28", False, _RUNNING, ["llm"]),
        ("default-1@node-b", "2026.11.27", True, None, ["celery", "webhooks", "mail"]),
    ):
        cursor.execute(
            "INSERT INTO kombu_consumer (hostname, pid, started_at, name, pool, slots, app_version, beat_at, busy,"
            " running, draining)"
            " VALUES (%s, %s, now() - interval '3 hours', %s, 'prefork', 8, %s, now(), %s, %s, %s) RETURNING id",
            [host, 4242, host, version, 5 if running else 0, running, draining],
        )
        (consumer,) = cursor.fetchone()
        cursor.execute(
            "INSERT INTO kombu_subscription (queue_id, consumer_id)"
            " SELECT id, %s FROM kombu_queue WHERE name = ANY (%s)",
            [consumer, queues],
        )


_MESSAGE = """
    INSERT INTO kombu_message (queue_id, payload, task_id, tenant_id, priority, enqueued_at, available_at, visible,
        consumer_id, claimed_at, version)
    SELECT (SELECT id FROM kombu_queue WHERE name = one.queue), one.payload, one.task_id, one.tenant, 0,
        now() - one.age * interval '1 second',
        CASE WHEN one.due IS NOT NULL THEN now() + one.due * interval '1 second' END,
        one.host IS NULL, (SELECT id FROM kombu_consumer WHERE hostname = one.host),
        CASE WHEN one.host IS NOT NULL THEN now() - one.age * interval '0.5 second' END, 1
    FROM (VALUES %s) AS one (queue, payload, task_id, tenant, age, due, host)
"""


def _messages(cursor: Any, night: Night) -> None:
    rows: list[tuple[Any, ...]] = []

    def add(kind: str, name: str, queue: str, tenant: UUID | None, age_s: float, **more: Any) -> None:
        identity = task_id(f"{kind} {len(rows)}")
        night.ids.setdefault(kind, identity)
        text = message(name, queue, identity, 7, origin="gen1@web-1", tenant_id=str(tenant) if tenant else None)
        rows.append((queue, text, identity, tenant, age_s, more.get("due"), more.get("host")))

    for number in range(1_240):
        add("waiting", "app.tasks.llm.explanation", "llm", BOREALIS if number % 5 else ACME, 848 - number * 0.6)
    for number in range(38):
        add("paused", "reports.render_pdf", "reports", ACME, 1_260 - number * 20)
    for number in range(12):
        add("scheduled", "app.tasks.llm.routing", "llm", ACME, 60, due=1_800.0 + number * 10)
    for number in range(8):
        add("running", "app.tasks.llm.explanation", "llm", BOREALIS, 40 - number, host="llm-1@node-a")
    add("mail", "mail.send", "mail", None, 0.8)
    execute_values(
        cursor, _MESSAGE, rows, template="(%s, %s, %s, %s::uuid, %s::float, %s::float, %s)", page_size=len(rows)
    )


_RESULT = """
    INSERT INTO celery_taskmeta (id, task_id, status, result, date_done, traceback, name, worker, retries, queue)
    SELECT nextval('task_id_sequence'), one.* FROM (VALUES %s)
        AS one (task_id, status, result, date_done, traceback, name, worker, retries, queue)
"""


def _results(cursor: Any, night: Night) -> None:
    rows: list[tuple[Any, ...]] = []
    for number in range(120):
        kind = "failed" if number % 3 == 0 else "revoked" if number % 40 == 1 else "succeeded"
        identity = task_id(f"{kind} {number}")
        night.ids.setdefault(kind, identity)
        status = {"failed": "FAILURE", "revoked": "REVOKED", "succeeded": "SUCCESS"}[kind]
        stored = {"exc_type": "ProviderTimeoutError", "exc_module": "app.tasks.llm_provider", "exc_message": [SECRET]}
        llm = kind == "failed"
        rows.append(
            (
                identity,
                status,
                json.dumps(stored if llm else {"answer": 42}).encode(),
                7.0 * number + 34,
                TRACEBACK if llm else None,
                "app.tasks.llm.explanation" if llm else "webhooks.deliver" if number % 2 else "mail.send",
                "llm-1@node-a" if llm else "default-1@node-b",
                2 if llm else 0,
                "llm" if llm else "webhooks",
            )
        )
    template = "(%s, %s, %s::bytea, (now() AT TIME ZONE 'UTC') - %s * interval '1 second', %s, %s, %s, %s, %s)"
    execute_values(cursor, _RESULT, rows, template=template, page_size=len(rows))


_LETTER = """
    INSERT INTO kombu_dead_letter
        (died_at, message_id, failures, enqueued_at, tenant_id, queue, task_id, reason, payload)
    SELECT now() - one.age * interval '1 second', 1, one.failures, now() - one.age * interval '2 second', one.tenant,
        one.queue, one.task_id, one.reason, one.payload
    FROM (VALUES %s) AS one (age, failures, tenant, queue, task_id, reason, payload)
"""


def _dead_letters(cursor: Any, night: Night) -> None:
    rows: list[tuple[Any, ...]] = []
    groups = (
        ("dead", 41, "failed 3 times", "app.tasks.llm.investigation", "llm", BOREALIS, 200.0),
        ("expired", 70, "expired", "app.tasks.llm.explanation", "llm", ACME, 900.0),
        ("rejected", 12, "rejected", "webhooks.deliver", "webhooks", ACME, 7_000.0),
    )
    for kind, count, reason, name, queue, tenant, age in groups:
        for number in range(count):
            identity = task_id(f"{kind} {number}")
            night.ids.setdefault(kind, identity)
            failures = 3 if kind == "dead" else 0
            rows.append(
                (age + number * 10, failures, tenant, queue, identity, reason, message(name, queue, identity, 7))
            )
    rows.append((50_000.0, 0, None, "webhooks", None, "the payload is not JSON", "}{"))
    execute_values(cursor, _LETTER, rows, template="(%s::float, %s, %s::uuid, %s, %s, %s, %s)", page_size=len(rows))


def _minutes(cursor: Any) -> None:
    """What workers have counted: from fourteen minutes ago on `llm` falls behind, and its provider does not answer."""
    counted, depths = [], []
    for ago in range(60):
        late = max(0, 14 - ago)
        llm, mail = 290 - 14 * late + ago % 7, 120 + ago % 11
        failed = 6 * late + (ago == 31)
        for queue, name, started, lost, waited_s in (
            ("llm", "app.tasks.llm.explanation", llm, failed, 0.8 + 45.0 * late),
            ("mail", "mail.send", mail, 0, 0.05),
        ):
            waited, ran = [0] * CLASSES, [0] * CLASSES
            waited[class_of(waited_s)] = started // 2
            waited[class_of(waited_s / 3)] += started - started // 2
            ran[class_of(4.0 if queue == "llm" else 0.2)] = started
            counted.append((ago, queue, name, started, started - lost, lost, waited, ran))
        depths.append((ago, "llm", 8 + ago % 5 + 214 * late, 0.5 + 58.0 * late))
        depths.append((ago, "mail", ago % 4, 0.1))
    at = "(date_trunc('minute', now()) - %s * interval '1 minute', "
    insert = "INSERT INTO celery_minute (minute, consumer_id, queue, name, started, done, failed, retried, waited, ran)"
    execute_values(cursor, f"{insert} VALUES %s", counted, template=f"{at}0, %s, %s, %s, %s, %s, 0, %s, %s)")
    execute_values(
        cursor,
        "INSERT INTO celery_depth (minute, queue, waiting, oldest_s) VALUES %s",
        depths,
        template=f"{at}%s, %s, %s)",
    )
