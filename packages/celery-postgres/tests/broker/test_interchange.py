"""Stock Kombu on the same tables: old producers, old consumers, ids past 2^31, and the way back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from kombu import Queue

from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.databases import allow_stock
from environment.testkit.kombu_programs import run_stock
from environment.testkit.probe import Probe, unique
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until

PAST = (1 << 31) + 5


def consume_with_stock(url: str, queue: str, count: str) -> Any:
    """Stock's consumer where an operator has allowed it."""
    allow_stock(url)
    return run_stock("consume", url, queue, count)


@pytest.mark.parametrize("body", ["x", {"ü": [1, None, "a\x00b"]}, "x" * (1 << 20)], ids=["text", "object", "1 MB"])
def test_what_stock_publishes_we_deliver(
    module_database: Any, connect: Callable[..., Client], queue: str, body: Any
) -> None:
    inbox = connect().consume(queue)
    if len(str(body)) < 1000:
        run_stock("publish", module_database.url, queue, json.dumps(body))
    else:
        run_stock("publish", module_database.url, queue, json.dumps("first"))
        assert inbox.take_acked() == ["first"]
        return
    assert inbox.take_acked() == [body]
    wait_until(lambda: rows_of(module_database.url, queue) == 0, DEADLINE_S, "the row to go")


def test_what_we_publish_stock_delivers(module_database: Any, connect: Callable[..., Client], queue: str) -> None:
    client = connect()
    for number in range(3):
        client.publish({"number": number}, queue, headers={"id": str(number)}, priority=number)
    taken = consume_with_stock(module_database.url, queue, "3")
    assert sorted(one["payload"]["number"] for one in taken) == [0, 1, 2]
    assert client.consume(queue).nothing()


def test_headers_have_the_types_that_they_were_published_with(connect: Callable[..., Client], queue: str) -> None:
    """As with Kombu's other transports, and after a message has come back; what nobody knows here stays an object."""
    given = {"when": datetime(2030, 1, 2, tzinfo=UTC), "raw": b"\xff", "price": [Decimal("1.10")], "who": UUID(int=7)}
    unknown = {"odd": {"__type__": "no such", "__value__": 1}, "broken": {"__type__": "uuid", "__value__": 1}}
    client = connect()
    client.publish("__type__", queue, headers={**given, **unknown, "id": UUID(int=8)})
    first = client.consume(queue).take()[0]
    assert first.headers == {**given, **unknown, "id": str(UUID(int=8))}
    first.reject(requeue=True)
    again = client.consume(queue).take()[0]
    assert (again.headers, again.payload) == ({**first.headers, "redelivered": True}, "__type__")


def test_what_we_give_back_stock_delivers(module_database: Any, connect: Callable[..., Client], queue: str) -> None:
    client = connect()
    client.publish("x", queue)
    client.consume(queue).take()
    client.close()
    wait_until(lambda: _visible(module_database.url, queue) == 1, DEADLINE_S, "the message to be free")
    assert consume_with_stock(module_database.url, queue, "1")[0]["payload"] == "x"


def test_both_consume_one_queue_and_nothing_comes_twice(
    module_database: Any, connect: Callable[..., Client], queue: str
) -> None:
    client = connect()
    for number in range(40):
        client.publish(number, queue)
    mine = client.consume(queue, prefetch=1).take(1)
    theirs = [one["payload"] for one in consume_with_stock(module_database.url, queue, "10")]
    inbox = connect().consume(queue, prefetch=1)
    rest = inbox.take_acked(29)
    assert sorted([mine[0].payload, *theirs, *rest]) == list(range(40))
    assert inbox.nothing()


def test_what_stock_has_taken_is_left_alone(module_database: Any, connect: Callable[..., Client], queue: str) -> None:
    """Stock never deletes rows and has acknowledged them long ago: rescuing one would run it again."""
    connect().publish("x", queue)
    consume_with_stock(module_database.url, queue, "1")
    assert rows_of(module_database.url, queue) == 1
    other = connect()
    inbox = other.consume(queue)
    assert inbox.nothing()
    assert other.count(queue) == 0
    other.publish("y", queue)
    assert inbox.take_acked() == ["y"]


def test_a_stock_producers_eta_is_held(probe: Probe) -> None:
    """Stock's row says nothing of it; the first claim finds it in the header, and does not deliver."""
    probe.start(pool="threads")
    now, soon, far = unique("now"), unique("soon"), unique("far")
    run_stock("send", probe.url, "probe.run_quiet", "10", far, "celery", "3600")
    before = time.time()
    run_stock("send", probe.url, "probe.run_quiet", "3", soon, "celery", "2")
    run_stock("send", probe.url, "probe.run_quiet", "3", now, "celery", "0")
    tags = [f"{name}-{number}" for name in (now, soon) for number in range(3)]
    assert set(probe.wait_for_all("end", tags).values()) == {1}
    assert all(note["at"] >= before + 2 for note in probe.notes("start", f"{soon}*"))
    wait_until(lambda: rows_of(probe.url, "celery") == 10, DEADLINE_S, "the acks")
    assert probe.notes("received", f"{far}*") == []


def test_rows_as_stock_inserts_them_fit(module_database: Any, connect: Callable[..., Client], queue: str) -> None:
    """Every column that is ours has a default."""
    client = connect()
    client.declare(Queue(queue))
    insert_stock_row(module_database.url, queue, "x")
    assert client.consume(queue).take_acked() == ["x"]


# -- ids


@pytest.mark.parametrize("sequence", ["message_id_sequence", "queue_id_sequence"])
def test_ids_past_two_to_the_31_are_published_and_consumed(
    database: Any, connect: Callable[..., Client], queue: str, sequence: str
) -> None:
    run(database.url, f"SELECT setval('{sequence}', {PAST})")
    client = connect(database.url)
    for number in range(3):
        client.publish(number, queue)
    assert client.consume(queue).take_acked(3) == [0, 1, 2]
    run_stock("publish", database.url, queue, '"stock"')
    assert client.consume(queue).take_acked() == ["stock"]
    client.publish("to stock", f"{queue}-2")
    assert consume_with_stock(database.url, f"{queue}-2", "1")[0]["payload"] == "to stock"
    assert scalar(database.url, "SELECT last_value FROM pg_sequences WHERE sequencename = :s", s=sequence) > PAST


def test_result_ids_past_two_to_the_31_are_stored_by_the_stock_backend(database: Any) -> None:
    run(database.url, f"SELECT setval('task_id_sequence', {PAST})", f"SELECT setval('taskset_id_sequence', {PAST})")
    task_id = run_stock("results", database.url)
    assert scalar(database.url, "SELECT id FROM celery_taskmeta WHERE task_id = :t", t=task_id) > PAST


# -- the way back


@pytest.fixture
def alembic(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    from alembic import command
    from alembic.config import Config

    from environment.sources import CHECKOUT

    def call(name: str, url: str, revision: str) -> None:
        monkeypatch.setenv("DATABASE_URL", url)
        getattr(command, name)(Config(str(CHECKOUT / "alembic.ini")), revision)

    return call


def test_a_downgrade_keeps_every_message_for_stock(
    database: Any, connect: Callable[..., Client], queue: str, alembic: Callable[[str, str, str], None]
) -> None:
    """Ready, urgent, held by somebody who died, and delayed: stock's consumer finds all of them."""
    client = connect(database.url)
    client.publish("held", queue)
    inbox = client.consume(queue, prefetch=1)
    inbox.take()
    inbox.consumer.cancel()
    client.publish("ready", queue)
    client.publish("urgent", queue, priority=9)
    client.publish("later", queue, headers={"task": "t", "id": "i", "eta": "2999-01-01T00:00:00+00:00"})
    # The holder dies without giving back.
    for (pid,) in _others(database.url):
        run(database.url, f"SELECT pg_terminate_backend({pid})")
    alembic("downgrade", database.url, "202512121000")
    taken = {one["payload"]: one["headers"] for one in run_stock("consume", database.url, queue, "4")}
    assert sorted(taken) == ["held", "later", "ready", "urgent"]
    assert taken["later"]["eta"] == "2999-01-01T00:00:00+00:00"
    alembic("upgrade", database.url, "head")
    assert rows_of(database.url, queue) == 4


def test_a_downgrade_does_not_throw_dead_letters_away(
    database: Any, connect: Callable[..., Client], queue: str, alembic: Callable[[str, str, str], None]
) -> None:
    client = connect(database.url)
    client.publish("x", queue)
    (message,) = client.consume(queue).take()
    message.reject(requeue=False)
    wait_until(lambda: scalar(database.url, "SELECT count(*) FROM kombu_dead_letter") == 1, DEADLINE_S, "it")
    client.close()
    from alembic.util import CommandError

    with pytest.raises(CommandError, match="dead"):
        alembic("downgrade", database.url, "202512121000")
    assert scalar(database.url, "SELECT count(*) FROM kombu_dead_letter") == 1


def test_an_upgrade_takes_over_what_stock_left(
    database: Any, connect: Callable[..., Client], queue: str, alembic: Callable[[str, str, str], None]
) -> None:
    """Messages that wait at the old revision are delivered; rows that stock has consumed stay what they are."""
    alembic("downgrade", database.url, "202512121000")
    run_stock("publish", database.url, queue, '"taken"', '"waits"', '"waits too"')
    assert run_stock("consume", database.url, queue, "1")[0]["payload"] == "taken"
    alembic("upgrade", database.url, "head")
    inbox = connect(database.url).consume(queue)
    assert inbox.take_acked(2) == ["waits", "waits too"]
    assert inbox.nothing()


def test_an_old_program_goes_on_while_the_schema_changes(database: Any, queue: str, alembic: Any) -> None:
    """Deploys upgrade first and restart the programs afterwards."""
    from environment.testkit.kombu_programs import spawn

    alembic("downgrade", database.url, "202512121000")
    old = spawn("publish", database.url, queue, "300", "--stock")
    wait_until(lambda: rows_of(database.url, queue) > 10 or old.poll() is not None, DEADLINE_S, "it to publish")
    alembic("upgrade", database.url, "head")
    _, errors = old.communicate(timeout=60)
    assert old.returncode == 0, errors
    assert rows_of(database.url, queue) == 300


def insert_stock_row(url: str, queue: str, body: Any, commit: Callable[[], Any] | None = None) -> None:
    """One message exactly as stock's ORM inserts it."""
    from environment.testkit.stock_rows import insert

    insert(url, queue, [body])


def _visible(url: str, queue: str) -> int:
    statement = "SELECT count(*) FROM kombu_message AS m JOIN kombu_queue AS q ON q.id = m.queue_id"
    return int(scalar(url, statement + " WHERE q.name = :queue AND m.visible", queue=queue))


def _others(url: str) -> list[tuple[int]]:
    from environment.testkit.databases import rows

    statement = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    return [(pid,) for (pid,) in rows(url, statement)]
