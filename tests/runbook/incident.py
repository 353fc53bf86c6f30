"""A prepared incident for the runbook's commands: stuck and failed tasks, a worker and a web process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2

from app.celery_app import celery_app, create_app
from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.db import api_keys
from app.db.engine import build_engine
from environment.sources import CHECKOUT
from environment.testkit import stock_rows
from environment.testkit.kombu_programs import spawn
from environment.waiting import wait_until
from tests.http.front import A, Front

#: A queue that the worker does not consume.
QUEUE = "reports"
TASK_NAME = "app.tasks.llm.routing"
WAITING = 3
DEADLINE_S = 30

_CLEAN = """
    UPDATE kombu_queue SET paused = false;
    DELETE FROM kombu_stopped_task;
    DELETE FROM kombu_dead_letter;
    DELETE FROM kombu_message WHERE queue_id = (SELECT id FROM kombu_queue WHERE name = 'reports');
"""
_RESULTS = """
    INSERT INTO celery_taskmeta (id, task_id, status, date_done)
    SELECT nextval('task_id_sequence'), gen_random_uuid(), status, now() AT TIME ZONE 'UTC'
    FROM unnest(ARRAY['SUCCESS', 'FAILURE', 'STARTED']) AS status
"""
#: A message taken by stock Kombu two days ago, and a dead letter that can be requeued.
_TAKEN = """
    WITH message AS (
        DELETE FROM kombu_message WHERE id = (SELECT max(id) FROM kombu_message) RETURNING payload, queue_id
    )
    INSERT INTO kombu_message (visible, "timestamp", payload, version, queue_id)
    SELECT false, now() - interval '2 days', message.payload, 2, message.queue_id FROM message
"""
_DEAD = """
    INSERT INTO kombu_dead_letter (message_id, failures, queue, task_id, reason, payload)
    SELECT message.id, 5, 'reports', message.task_id, 'failed 5 times', message.payload
    FROM kombu_message AS message JOIN kombu_queue AS queue ON queue.id = message.queue_id
    WHERE queue.name = 'reports' ORDER BY message.id LIMIT 1
    RETURNING id
"""


class Incident:
    """What the commands find: waiting tasks, a dead letter, a failed task, a message taken by stock Kombu, results, and
    a consumer with a lease.

    Attributes:
        url: the database.
        ports: address on the pages → address here.
    """

    def __init__(self, database: Any, worker: Any, front: Front, folder: Path) -> None:
        self.url: str = database.url
        self.folder = folder
        self.ports = {
            "localhost:9540": worker.metrics_url.removeprefix("http://"),
            "localhost:8000": f"127.0.0.1:{front.port}",
        }
        self._puppet: subprocess.Popen[str] | None = None
        self._sessions: list[Any] = []
        self._app = create_app(Settings(database_url=self.url, _env_file=None))
        celery_app.set_current()
        self._run(_RESULTS)
        self._worker = worker
        self._app.send_task(TASK_NAME)

    def set_up(self) -> None:
        """As each block finds it."""
        self._run(_CLEAN)
        self.waiting = [self._app.send_task("app.tasks.housekeeping.ping", queue=QUEUE).id for _ in range(WAITING)]
        stock_rows.insert(PostgresDSN.parse(self.url).libpq(), QUEUE, ["taken"])
        self._run(_TAKEN)
        self.dead = self._run(_DEAD)[0][0]

    def value(self, name: str) -> str:
        """Of one of NAMES."""
        return str(NAMES[name](self))

    def close(self) -> None:
        for one in self._sessions:
            one.close()
        self._end_puppet()
        self._app.close()

    def _end_puppet(self) -> None:
        if self._puppet is not None:
            self._puppet.kill()
            self._puppet.communicate()
            self._puppet = None

    def consumer(self) -> int:
        """A process that holds a message, and does nothing with it."""
        libpq = PostgresDSN.parse(self.url).url()
        holds = "SELECT id FROM kombu_consumer AS c WHERE pid = {} AND EXISTS (SELECT FROM kombu_message AS m WHERE"
        holds += " m.consumer_id = c.id)"
        if self._puppet is not None and not self._run(holds.format(self._puppet.pid)):
            self._end_puppet()  # a block has released what it held
        if self._puppet is None:
            queue = f"held-{uuid4().hex[:8]}"
            subprocess.run(
                [sys.executable, "-m", "environment.testkit.kombu_programs", "publish", libpq, queue, "1"],
                env=spawn.environment(),  # type: ignore[attr-defined]
                cwd=CHECKOUT,
                check=True,
            )
            self._puppet = spawn("puppet", libpq, queue)
            assert self._puppet.stdin is not None
            assert self._puppet.stdout is not None
            self._puppet.stdin.write(json.dumps(["get"]) + "\n")
            self._puppet.stdin.flush()
            assert json.loads(self._puppet.stdout.readline()) == 0
        (found,) = self._run(holds.format(self._puppet.pid))
        return int(found[0])

    def key(self) -> str:
        engine = build_engine(Settings(database_url=self.url, _env_file=None))
        with engine.begin() as connection:
            record, _ = api_keys.issue(connection, A, "runbook")
        engine.dispose()
        return str(record.id)

    def log(self) -> Path:
        """What `./dev worker > log 2>&1` leaves, once a task has failed."""
        wait_until(lambda: '"error.type"' in self._worker.log_text(), DEADLINE_S, "a task that fails")
        kept = self.folder / "log"
        kept.write_text(f"dev: PostgreSQL runs\n{self._worker.log_text()}")
        return kept

    def session(self) -> int:
        """One that has a transaction open, and a lock."""
        connection = psycopg2.connect(PostgresDSN.parse(self.url).libpq())
        self._sessions.append(connection)
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE kombu_dead_letter IN ROW EXCLUSIVE MODE")
        return int(connection.info.backend_pid)

    def _run(self, statements: str) -> list[Any]:
        with closing(psycopg2.connect(PostgresDSN.parse(self.url).libpq())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statements)
                with suppress(psycopg2.ProgrammingError):
                    return list(cursor.fetchall())
        return []


#: What the entry page's table explains, and what it is here.
NAMES: Mapping[str, Callable[[Incident], Any]] = {
    "QUEUE": lambda _: QUEUE,
    "TASK_NAME": lambda _: TASK_NAME,
    "TASK_ID": lambda incident: incident.waiting[0],
    "DEAD_ID": lambda incident: incident.dead,
    "CONSUMER": Incident.consumer,
    "PID": Incident.session,
    "TENANT": lambda _: A,
    "KEY_ID": Incident.key,
    "LOG": Incident.log,
}
