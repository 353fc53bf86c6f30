"""Two tenants in the application's queues: each has its turn, whatever the other has queued."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Queue

import celery_postgres
from app.celery_app import celery_app, create_app
from app.core.settings import Settings
from celery_postgres import operations
from celery_postgres.operations import DeadLetterFilter
from environment.testkit.databases import rows
from environment.testkit.stock_rows import insert_raw, payload
from environment.waiting import wait_until

POOLS = {"solo": 1, "threads": 3, "prefork": 2}
DEADLINE_S = 60
#: What the busy tenant has queued, and how many of these may start before a task of the other one: turns are one to
#: one, but a worker claims some 50 ms of work ahead, and looks for new keys each 50 to 100 ms. Three threads start 225
#: tasks of 2 ms meanwhile.
BUSY, AHEAD = 3000, 400


class Played:
    """A client of the application, and the lines that its tasks have written."""

    def __init__(self, app: Celery, url: str, queue: str, path: Path) -> None:
        self.app, self.url, self.queue, self.path = app, url, queue, path
        self.busy, self.quiet = str(uuid4()), str(uuid4())

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def send(self, task: str, tenant: str, name: str, **options: Any) -> Any:
        arguments = {"tenant_id": tenant, "path": str(self.path), "name": name}
        options = {"queue": self.queue, "headers": {"tenant_id": tenant}, **options}
        return self.app.send_task(f"turns.{task}", kwargs=arguments, **options)

    def flood(self, messages: int = BUSY) -> None:
        with self.app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            for _ in range(messages):
                self.send("note", self.busy, "busy", producer=producer)

    def wait_for(self, *names: str) -> list[str]:
        wait_until(lambda: set(names) <= set(self.lines()), DEADLINE_S, f"{names} to start")
        return self.lines()

    def count(self, condition: str = "true") -> int:
        of_queue = "kombu_message AS message JOIN kombu_queue AS queue ON queue.id = queue_id WHERE name = :queue"
        statement = f"SELECT count(*) FROM {of_queue} AND {condition}"  # noqa: S608
        return int(rows(self.url, statement, queue=self.queue)[0][0])


@pytest.fixture
def played(module_database: Any, tmp_path: Path) -> Iterator[Played]:
    app = create_app(Settings(database_url=module_database.url, _env_file=None))
    yield Played(app, module_database.url, f"turns-{uuid4()}", tmp_path / "begun")
    app.close()
    celery_app.set_current()


def start(start_worker: Any, played: Played, pool: str = "solo") -> Any:
    return start_worker(
        played.url,
        pool=pool,
        concurrency=POOLS[pool],
        args=["-I", "turn_tasks", "-Q", played.queue],
        env={"PYTHONPATH": str(Path(__file__).parent)},
    )


@pytest.mark.parametrize("pool", POOLS)
def test_a_quiet_tenant_has_its_turns(played: Played, start_worker: Any, pool: str) -> None:
    """By order and not by time: a task that is first of its tenant, a scheduled one, and a retry."""
    played.flood()
    eta = datetime.now(UTC) + timedelta(seconds=0.1)
    played.send("note", played.quiet, "first")
    played.send("note", played.quiet, "scheduled", eta=eta)
    played.send("again", played.quiet, "again")
    start(start_worker, played, pool)
    begun = played.wait_for("first", "scheduled", "again-0")
    assert max(begun.index(name) for name in ("first", "scheduled", "again-0")) < AHEAD
    played.send("note", played.quiet, "later")
    before = len(played.lines())  # after it, since the busy tenant's tasks go on while it is sent
    assert played.wait_for("later").index("later") - before < AHEAD
    assert played.wait_for("again-1").index("again-1") < BUSY, "the busy tenant was done before the other's retry"
    with operations.of(played.app) as broker:
        broker.purge(played.queue)


def test_a_queue_becomes_fair_while_messages_wait(played: Played, start_worker: Any) -> None:
    """What older releases and stock Kombu have sent has no key: it is claimed beside the turns, and nothing is lost."""
    plain = Celery("plain", broker="sqla+" + played.url, set_as_current=False)
    plain.conf.task_queues = [Queue(played.queue)]
    kwargs = {"tenant_id": played.busy, "path": str(played.path)}
    for number in range(100):
        plain.send_task("turns.note", kwargs={**kwargs, "name": f"before-{number}"}, queue=played.queue)
    eta = datetime.now(UTC) + timedelta(seconds=0.1)
    plain.send_task("turns.note", kwargs={**kwargs, "name": "scheduled-before"}, queue=played.queue, eta=eta)
    plain.close()
    assert played.count("NOT fair AND flow_key IS NULL") == 101
    start(start_worker, played)
    played.flood(300)
    played.send("note", played.quiet, "first")
    names = {"task": "turns.note", "id": str(uuid4()), "lang": "py", "argsrepr": "()", "kwargsrepr": "{}"}
    insert_raw(played.url, played.queue, payload([[], {**kwargs, "name": "stock"}, {}], played.queue, **names))
    begun = played.wait_for("first", "stock", "scheduled-before", *(f"before-{number}" for number in range(100)))
    wait_until(lambda: played.count() == 0, DEADLINE_S, "the queue to be empty")
    assert sorted(set(begun)) == sorted({"busy", *begun})
    assert len(played.lines()) == 100 + 1 + 300 + 1 + 1


def test_a_dead_letter_keeps_its_key(played: Played, start_worker: Any) -> None:
    worker = start(start_worker, played)
    played.send("dies", played.quiet, "dies")
    with operations.of(played.app) as broker:
        wait_until(lambda: broker.dead_letters(DeadLetterFilter(queue=played.queue)), DEADLINE_S, "the dead letter")
        worker.stop()
        (dead,) = broker.dead_letters(DeadLetterFilter(queue=played.queue))
        assert broker.requeue([dead.id]).count == 1
    assert played.count(f"flow_key = hashtextextended('{played.quiet}', 0)") == 1
    Path(f"{played.path}-mended").touch()
    played.flood()
    start(start_worker, played)
    wait_until(lambda: played.lines().count("dies") == 2, DEADLINE_S, "the requeued task to start")
    assert len(played.lines()) - 1 - played.lines()[::-1].index("dies") < AHEAD
    with operations.of(played.app) as broker:
        broker.purge(played.queue)
