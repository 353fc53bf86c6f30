"""Queues: declare, count, purge, delete, expire; names of any kind; many at once."""

from __future__ import annotations

import gc
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import psycopg2
import pytest
from kombu import Connection, Exchange, Queue
from kombu.pools import producers, reset

from celery_postgres.database.queue_store import QueueStore
from environment.testkit.awkward_names import AWKWARD, UNPRINTABLE
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.databases import allow_stock
from environment.testkit.kombu_programs import spawn
from environment.testkit.tables import rows, rows_of, run, scalar
from environment.waiting import wait_until

# -- declare and count


def test_declaring_says_how_many_wait(client: Client, queue: str) -> None:
    said = client.channel.queue_declare(queue)
    assert (said.queue, said.message_count) == (queue, 0)
    client.publish("x", queue)
    client.publish("y", queue)
    assert client.channel.queue_declare(queue).message_count == 2
    assert client.channel.queue_declare(queue, passive=True).message_count == 2


def test_declaring_what_is_there_writes_nothing(
    connect: Callable[..., Client], queue: str, module_database: Any
) -> None:
    """A publisher declares its queue at each start, and may be somebody who may not change any."""
    written = (
        "SELECT queue.xmin::text || ' ' || binding.xmin::text FROM kombu_queue AS queue"
        " JOIN kombu_binding AS binding ON binding.queue_id = queue.id WHERE queue.name = :queue"
    )
    exchange = Exchange(f"{queue}-exchange")
    connect().declare(Queue(queue, exchange, "key", message_ttl=60))
    first = scalar(module_database.url, written, queue=queue)
    connect().declare(Queue(queue, exchange, "key", message_ttl=60))
    assert scalar(module_database.url, written, queue=queue) == first
    connect().declare(Queue(queue, exchange, "key", message_ttl=90))
    assert scalar(module_database.url, "SELECT message_ttl_ms FROM kombu_queue WHERE name = :q", q=queue) == 90_000


def test_what_somebody_holds_does_not_count_as_waiting(connect: Callable[..., Client], queue: str) -> None:
    client = connect()
    for number in range(3):
        client.publish(number, queue)
    (held,) = client.consume(queue, prefetch=1).take()
    wait_until(lambda: connect().count(queue) == 2, DEADLINE_S, "two to wait")
    held.ack()


def test_what_is_not_due_does_not_count_as_waiting(client: Client, queue: str, module_database: Any) -> None:
    client.publish("x", queue, headers={"task": "t", "id": "i", "eta": "2999-01-01T00:00:00+00:00"})
    assert client.count(queue) == 0
    assert rows_of(module_database.url, queue) == 1


def test_a_passive_declare_of_an_unknown_queue_is_404(client: Client, queue: str) -> None:
    with pytest.raises(client.connection.channel_errors) as caught:
        client.channel.queue_declare(queue, passive=True)
    assert str(caught.value.reply_code) == "404"
    assert queue in str(caught.value)
    client.publish("the channel still works", queue)
    assert client.count(queue) == 1


def test_a_queue_without_a_name_gets_one(client: Client) -> None:
    first, second = client.channel.queue_declare().queue, client.channel.queue_declare().queue
    assert first
    assert second
    assert first != second
    client.publish("x", exchange="", routing_key=first)
    assert client.count(first) == 1
    assert client.count(second) == 0


# -- purge and delete


def test_purge_takes_what_waits_and_leaves_what_is_held(connect: Callable[..., Client], queue: str) -> None:
    holder, purger = connect(), connect()
    for number in range(5):
        holder.publish(number, queue)
    (held,) = holder.consume(queue, prefetch=1).take()
    wait_until(lambda: purger.count(queue) == 4, DEADLINE_S, "four to wait")
    assert purger.channel.queue_purge(queue) == 4
    assert purger.count(queue) == 0
    held.reject(requeue=True)
    wait_until(lambda: purger.count(queue) == 1, DEADLINE_S, "the held one to come back")


def test_a_large_queue_is_purged_in_parts(client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueueStore, "BATCH", 2)
    for number in range(5):
        client.publish(number, queue)
    assert client.channel.queue_purge(queue) == 5
    assert client.count(queue) == 0
    assert client.channel.queue_purge(queue) == 0


def test_a_declaration_counts_in_every_way_of_asking(client: Client, queue: str) -> None:
    client.publish("x", queue)
    name, ready, _ = declared = client.channel.queue_declare(queue)
    assert (name, ready, declared[1], declared.message_count) == (queue, 1, 1, 1)


def test_purge_spares_other_queues(client: Client, queue: str) -> None:
    client.publish("x", queue)
    client.publish("y", f"{queue}-other")
    assert client.channel.queue_purge(queue) == 1
    assert client.channel.queue_purge(queue) == 0
    assert client.count(f"{queue}-other") == 1


def test_purge_takes_the_urgent_and_the_delayed_too(client: Client, queue: str) -> None:
    client.publish("x", queue, priority=9)
    client.publish("y", queue, headers={"task": "t", "id": "i", "eta": "2999-01-01T00:00:00+00:00"})
    assert client.channel.queue_purge(queue) == 2


def test_a_deleted_queue_is_gone_for_everybody(connect: Callable[..., Client], queue: str) -> None:
    owner, other = connect(), connect()
    owner.publish("x", queue)
    assert other.exists(queue)
    owner.channel.queue_delete(queue)
    assert not other.exists(queue)
    other.declare(Queue(queue))
    assert other.count(queue) == 0


def test_deleting_takes_the_bindings_along(connect: Callable[..., Client], queue: str) -> None:
    exchange = Exchange(f"x-{queue}", "direct")
    first, second = connect(), connect()
    first.declare(Queue(queue, exchange, "k"))
    first.channel.queue_delete(queue)
    second.declare(exchange)
    second.publish("x", exchange=exchange.name, routing_key="k")
    assert not second.exists(queue)
    second.declare(Queue(queue))
    assert second.count(queue) == 0


def test_deleting_only_if_empty(client: Client, queue: str) -> None:
    client.publish("x", queue)
    client.channel.queue_delete(queue, if_empty=True)
    assert client.exists(queue)
    client.channel.queue_purge(queue)
    client.channel.queue_delete(queue, if_empty=True)
    assert not client.exists(queue)


def test_deleting_twice_is_no_error(client: Client, queue: str) -> None:
    client.declare(Queue(queue))
    client.channel.queue_delete(queue)
    client.channel.queue_delete(queue)


def test_a_consumer_outlives_its_queue(connect: Callable[..., Client], queue: str) -> None:
    """Deleted under a consumer, and declared again: it goes on, or says so with a channel error."""
    consumer, other = connect(), connect()
    inbox = consumer.consume(queue)
    other.publish("before", queue)
    (held,) = inbox.take()
    other.channel.queue_delete(queue)
    held.ack()
    assert inbox.nothing()
    other.publish("after", queue)
    assert consumer.consume(queue).take_acked() == ["after"]


# -- life


def test_an_unused_queue_expires_and_a_used_one_does_not(connect: Callable[..., Client], queue: str) -> None:
    owner, observer = connect(), connect()
    used = Queue(f"{queue}-used", expires=1.0)
    unused = Queue(f"{queue}-unused", expires=1.0)
    owner.declare(used, unused)
    inbox = owner.consume(used)

    def expired() -> bool:
        inbox.drain(0.05)
        return not observer.exists(unused.name)

    wait_until(expired, DEADLINE_S, "the unused queue to expire")
    assert observer.exists(used.name)
    observer.publish("x", exchange="", routing_key=used.name)
    assert inbox.take_acked() == ["x"]


def test_a_queue_without_expiry_stays(connect: Callable[..., Client], queue: str) -> None:
    connect().declare(Queue(queue), Queue(f"{queue}-short", expires=0.5))
    observer = connect()
    wait_until(lambda: not observer.exists(f"{queue}-short"), DEADLINE_S, "the short one to go")
    assert observer.exists(queue)


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_an_automatic_queue_goes_with_its_last_consumer(connect: Callable[..., Client], queue: str, how: str) -> None:
    automatic = Queue(queue, auto_delete=True)
    first, second, observer = connect(), connect(), connect()
    one, two = first.consume(automatic), second.consume(automatic)
    one.consumer.cancel()
    assert observer.exists(queue)
    if how == "cancel":
        two.consumer.cancel()
    else:
        second.close()
    wait_until(lambda: not observer.exists(queue), DEADLINE_S, "the queue to go")


# -- names


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_will_do(client: Client, name: str) -> None:
    exchange = Exchange(f"exchange {AWKWARD[name]}"[:200], "direct")
    inbox = client.consume(Queue(AWKWARD[name], exchange, AWKWARD[name]))
    client.publish("by the queue", AWKWARD[name])
    assert inbox.take_acked() == ["by the queue"]
    client.publish("by the exchange", exchange=exchange.name, routing_key=AWKWARD[name])
    assert inbox.take_acked() == ["by the exchange"]
    assert inbox.nothing()


def test_names_that_look_alike_are_different(client: Client) -> None:
    prefix = secrets.token_hex(4)
    names = [(prefix + name)[:200] for name in AWKWARD.values()]
    names = list(dict.fromkeys(names))
    inboxes = {name: client.consume(name) for name in names}
    for name in names:
        client.publish(name, name)
    for name, inbox in inboxes.items():
        assert inbox.take_acked() == [name]
        assert inbox.messages == []


@pytest.mark.parametrize("name", ["x" * 201, *UNPRINTABLE.values()], ids=["201 letters", *UNPRINTABLE])
def test_a_name_that_cannot_be_is_an_error_and_the_connection_lives(client: Client, queue: str, name: str) -> None:
    with pytest.raises(client.connection.channel_errors, match=r"at most 200|only printable"):
        client.declare(Queue(name))
    with pytest.raises(client.connection.channel_errors, match="the name of a queue"):
        client.publish("x", name)
    client.publish("x", queue)
    assert client.count(queue) == 1


@pytest.mark.parametrize("name", ["x" * 256, *UNPRINTABLE.values()], ids=["256 letters", *UNPRINTABLE])
def test_exchanges_and_routing_keys_have_printable_names_too(client: Client, queue: str, name: str) -> None:
    client.declare(Queue(queue))
    with pytest.raises(client.connection.channel_errors, match=r"an exchange has .*(at most 255|only print)"):
        client.channel.queue_bind(queue, name, "key")
    with pytest.raises(client.connection.channel_errors, match=r"a routing key has .*(at most 255|only print)"):
        client.channel.queue_bind(queue, "exchange", name)


@pytest.mark.parametrize("kind", [kind for kind in UNPRINTABLE if kind != "NUL"])
def test_the_tables_refuse_what_a_client_of_ours_would_not_send(module_database: Any, kind: str) -> None:
    for statement in (
        "INSERT INTO kombu_queue (name) VALUES (:name) RETURNING 1",
        "INSERT INTO kombu_binding (exchange, type, routing_key, queue_id) VALUES (:name, 'direct', '', 1) RETURNING 1",
        "INSERT INTO kombu_binding (exchange, type, routing_key, queue_id) VALUES ('x', 'topic', :name, 1) RETURNING 1",
        "INSERT INTO kombu_consumer (hostname, pid) VALUES (:name, 1) RETURNING 1",
    ):
        with pytest.raises(psycopg2.Error, match="printable characters"):
            rows(module_database.url, statement, name=UNPRINTABLE[kind])


# -- SimpleQueue


def test_a_simple_queue_does_what_its_documentation_says(client: Client, queue: str) -> None:
    simple = client.connection.SimpleQueue(queue)
    with pytest.raises(Empty):
        simple.get(block=True, timeout=0.1)
    with pytest.raises(Empty):
        simple.get_nowait()
    for number in range(3):
        simple.put({"number": number})
    assert simple.qsize() == 3
    assert len(simple) == 3
    for number in range(2):
        message = simple.get(timeout=DEADLINE_S)
        assert message.payload == {"number": number}
        message.ack()
    assert simple.clear() == 1
    with pytest.raises(Empty):
        simple.get_nowait()
    simple.close()


# -- many at once


def test_twenty_threads_publish_at_once(client: Client, connect: Callable[..., Client], queue: str) -> None:
    client.declare(Queue(queue))
    errors: list[BaseException] = []
    start = threading.Barrier(20)

    def publish(thread: int) -> None:
        try:
            start.wait(DEADLINE_S)
            for number in range(25):
                with producers[client.connection].acquire(block=True, timeout=DEADLINE_S) as producer:
                    producer.publish([thread, number], exchange="", routing_key=queue)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(20)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        reset()
    assert errors == []
    came = connect().consume(queue).take_acked(500)
    assert sorted(came) == [[thread, number] for thread in range(20) for number in range(25)]
    for thread in range(20):
        assert [number for sender, number in came if sender == thread] == list(range(25))


def test_threads_may_share_one_connection(connect: Callable[..., Client], queue: str) -> None:
    """Each thread with a channel of its own, as Kombu's documentation allows nothing more."""
    client = connect()
    client.declare(Queue(queue))
    errors: list[BaseException] = []
    start = threading.Barrier(8)

    def publish(thread: int) -> None:
        try:
            channel = client.connection.channel()
            start.wait(DEADLINE_S)
            for number in range(25):
                client.connection.Producer(channel).publish([thread, number], exchange="", routing_key=queue)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(connect().consume(queue).take_acked(200)) == 200


def test_four_processes_declare_one_queue_at_once(
    module_database: Any, connect: Callable[..., Client], queue: str, tmp_path: Path
) -> None:
    """Twenty queues with bindings, all by all at the same moment: no error, no deadlock, one row each."""
    processes = [spawn("declare", module_database.url, queue, "20", str(tmp_path), str(n), "4") for n in range(4)]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert scalar(module_database.url, "SELECT count(*) FROM kombu_queue WHERE name LIKE :p", p=f"{queue}-%") == 20
    client = connect()
    client.publish("x", exchange=f"{queue}-exchange", routing_key=f"{queue}-7")
    assert client.consume(f"{queue}-7").take_acked() == ["x"]
    assert client.consume(f"{queue}-8").nothing()


# -- connections


def _tcp(database: Any) -> str:
    if database.tcp_url is None:
        pytest.skip("the server of DATABASE_URL is not ours: where it listens is unknown")
    return str(database.tcp_url)


def test_an_unreachable_server_is_one_of_the_connection_errors() -> None:
    connection = Connection("sqla+postgresql://nobody@127.0.0.1:1/nothing", connect_timeout=2)
    with pytest.raises(connection.connection_errors):
        connection.connect()
    connection.release()


@pytest.mark.parametrize("form", ["list", "semicolon"])
def test_the_next_url_is_taken_when_the_first_is_dead(module_database: Any, queue: str, form: str) -> None:
    # Without parameters: Kombu's own switch() takes none for any transport.
    urls = ["sqla+postgresql://nobody@127.0.0.1:1/nothing", "sqla+" + _tcp(module_database)]
    connection = Connection(urls if form == "list" else ";".join(urls))
    connection.ensure_connection(max_retries=3, interval_start=0, interval_step=0, interval_max=0)
    simple = connection.SimpleQueue(queue)
    simple.put("x")
    assert simple.get(timeout=DEADLINE_S).payload == "x"
    simple.close()
    connection.release()


def test_a_connection_can_be_switched(database: Any, module_database: Any, queue: str) -> None:
    connection = Connection("sqla+" + _tcp(module_database))
    connection.SimpleQueue(queue).put("one")
    connection.switch("sqla+" + _tcp(database))
    connection.SimpleQueue(queue).put("other")
    connection.release()
    assert (rows_of(module_database.url, queue), rows_of(database.url, queue)) == (1, 1)


def test_no_password_is_shown(server: Any, module_database: Any) -> None:
    connection = Connection("sqla+postgresql://app_user:hidden-word@127.0.0.1:1/nothing")
    shown = [connection.as_uri(), repr(connection), str(connection), repr(connection.transport)]
    with pytest.raises(connection.connection_errors) as caught:
        connection.connect()
    assert "hidden-word" not in " ".join([*shown, str(caught.value), repr(caught.value)])
    connection.release()


def test_connections_that_are_dropped_leave_no_descriptors(module_database: Any, queue: str) -> None:
    keeper = Client(module_database.url)
    keeper.publish("x", queue)
    keeper.consume(queue).take_acked()

    def dropped() -> int:
        client = Client(module_database.url)
        client.publish("x", queue)
        client.get(queue, no_ack=True)
        del client
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    first = dropped()
    for _ in range(5):
        # Another thread of this process may be connecting.
        wait_until(lambda: dropped() <= first, DEADLINE_S, "as many descriptors as before")
    keeper.close()


def test_a_program_that_only_publishes_ends_by_itself(module_database: Any, queue: str) -> None:
    """No thread and no lock of the broker keeps an interpreter from ending, even without close()."""
    process = spawn("publish", module_database.url, queue, "3", "--leave-open")
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0
    assert rows_of(module_database.url, queue) == 3


def test_a_forked_child_publishes_on_its_own(module_database: Any, queue: str) -> None:
    """Parent and child publish, wait and publish again: neither writes to the other's socket."""
    process = spawn("fork", module_database.url, queue)
    said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert rows_of(module_database.url, queue) == 60


def test_importing_the_broker_loads_no_orm() -> None:
    code = "import sys, celery_postgres; celery_postgres.install(); sys.exit('sqlalchemy.orm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=spawn.environment(), check=False)
    assert done.returncode == 0


def test_messages_of_a_queue_that_is_gone_are_found_and_deleted(
    connect: Callable[..., Client], plain_database: Any, queue: str
) -> None:
    """Whatever state they are in; and those of other queues stay."""
    url = plain_database.url
    client = connect(url)
    for name in (queue, f"{queue}-stays"):
        for number in range(4):
            client.publish(number, name)
    first = "queue_id = (SELECT min(id) FROM kombu_queue)"
    allow_stock(url)
    run(
        url,
        f"UPDATE kombu_message SET available_at = now() + interval '1 h' WHERE {first} AND id % 4 = 1",  # noqa: S608
        f"UPDATE kombu_message SET visible = false WHERE {first} AND id % 4 = 2",  # noqa: S608
        f"UPDATE kombu_message SET visible = false, consumer_id = 0 WHERE {first} AND id % 4 = 3",  # noqa: S608
        "DELETE FROM kombu_queue WHERE id = (SELECT min(id) FROM kombu_queue)",
    )
    assert rows_of(url) == 8

    connect(url).channel.queues.clear_orphans()

    assert rows_of(url) == rows_of(url, f"{queue}-stays") == 4
