"""What is wrong from the start: one clear error or a dead letter, never a crash loop and never a lost message."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection

from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.databases import as_role, engine_of
from environment.testkit.probe import Probe, unique
from environment.testkit.stock_rows import insert_raw, payload
from environment.testkit.tables import dead_letters, rows_of, run, scalar
from environment.waiting import wait_until


@pytest.fixture
def empty_url(fresh: Any) -> Iterator[str]:
    """A database with nothing in it."""
    with fresh() as database:
        yield database.url


# -- the schema


def says_what_to_do(text: str) -> bool:
    return "python -m celery_postgres migrate" in text and "this release needs version" in text


@pytest.mark.parametrize("schema", ["none", "stock"])
def test_a_database_without_our_tables_is_one_clear_error(empty_url: str, queue: str, schema: str) -> None:
    if schema == "stock":
        _stock_tables(empty_url)
    connection = Connection("sqla+" + empty_url)
    with pytest.raises(Exception, match="celery_postgres migrate") as caught:
        connection.SimpleQueue(queue).put("x")
    assert says_what_to_do(str(caught.value))
    # Not a connection error, which Celery would retry for ever.
    assert not isinstance(caught.value, connection.connection_errors)
    connection.release()


@pytest.mark.parametrize("schema", ["none", "stock"])
def test_a_worker_without_our_tables_ends_with_a_clear_error(
    empty_url: str, make_probe: Callable[..., Probe], schema: str
) -> None:
    if schema == "stock":
        _stock_tables(empty_url)
    probe = make_probe(empty_url)
    worker = probe.start(ready=False)
    wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the worker to end")
    assert worker.process.returncode != 0
    assert says_what_to_do(worker.log_text())


def test_create_schema_twice_and_over_stock_tables_keeps_what_is_there(empty_url: str, queue: str) -> None:
    import celery_postgres
    from environment.testkit.kombu_programs import run_stock

    run_stock("publish", empty_url, queue, '"from before"')
    engine = engine_of(empty_url)
    celery_postgres.create_schema(engine)
    celery_postgres.create_schema(engine)
    connection = Connection("sqla+" + empty_url)
    simple = connection.SimpleQueue(queue)
    assert simple.get(timeout=DEADLINE_S).payload == "from before"
    simple.close()
    connection.release()


def test_tables_that_come_later_are_found(empty_url: str, queue: str) -> None:
    """An error of the schema is not remembered: the person runs the command, and the program goes on."""
    import celery_postgres

    connection = Connection("sqla+" + empty_url)
    with pytest.raises(Exception, match="celery_postgres migrate"):
        connection.SimpleQueue(queue).put("x")
    celery_postgres.create_schema(empty_url)
    connection.SimpleQueue(queue).put("y")
    connection.release()
    assert rows_of(empty_url, queue) == 1


def _stock_tables(url: str) -> None:
    engine = engine_of(url)
    from kombu.transport import sqlalchemy as stock

    channel_class = type("Loose", (stock.Channel,), {"__init__": lambda self: None})
    channel = channel_class()
    channel._configure_entity_tablenames({})
    stock.metadata.create_all(engine)
    engine.dispose()


# -- the role


@pytest.fixture
def powerless_url(server: Any, plain_database: Any) -> Iterator[str]:
    """A role that may connect and nothing else."""
    if server.superuser_url is None:
        pytest.skip("needs another role, and roles can be made on our own server only")
    name = f"powerless_{secrets.token_hex(4)}"
    run(server.superuser_url, f"CREATE ROLE {name} LOGIN")
    yield as_role(plain_database.url, name)
    run(plain_database.superuser_url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_a_publisher_without_the_grant_is_told(powerless_url: str, queue: str) -> None:
    connection = Connection("sqla+" + powerless_url)
    with pytest.raises(Exception, match="permission denied") as caught:
        connection.SimpleQueue(queue).put("x")
    assert not isinstance(caught.value, connection.connection_errors)
    connection.release()


def test_a_worker_without_the_grant_ends_with_a_clear_error(
    powerless_url: str, make_probe: Callable[..., Probe]
) -> None:
    probe = make_probe(powerless_url)
    worker = probe.start(ready=False)
    wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the worker to end")
    assert worker.process.returncode != 0
    assert "permission denied" in worker.log_text()


def test_a_role_that_may_use_but_not_create_is_enough(powerless_url: str, plain_database: Any, queue: str) -> None:
    """Programs need no rights on the schema: only what a worker of stock needs on the tables."""
    role = powerless_url.split("//")[1].split("@")[0]
    run(
        plain_database.url,
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}",
    )
    connection = Connection("sqla+" + powerless_url)
    simple = connection.SimpleQueue(queue)
    simple.put("x")
    message = simple.get(timeout=DEADLINE_S)
    message.ack()
    assert message.payload == "x"
    simple.close()
    connection.release()


# -- messages that nobody can read

ENVELOPES = {
    "no JSON": "this is { not JSON",
    "empty": "",
    "null": "null",
    "list": "[1, 2]",
    "no properties": json.dumps({"body": "eA=="}),
    "empty object": "{}",
    "nested too deeply": '{"properties": {}, "body": ' + "[" * 100_000,
    "properties are text": json.dumps({"body": "", "headers": {}, "properties": "x"}),
    "no delivery tag": json.dumps({"body": "eA==", "headers": {}, "properties": {"delivery_info": {}}}),
    "bad base64": payload("x", "q").replace('"body": "', '"body": "A'),
    "unknown encoding": payload("x", "q").replace('"base64"', '"rot13"'),
    "headers are a list": payload("x", "q").replace('"headers": {}', '"headers": [1]'),
    "body is a number": json.dumps(
        {"body": 5, "headers": {}, "properties": {"delivery_tag": "t", "body_encoding": "base64"}}
    ),
}

#: Kombu can deliver these: what is missing has a meaning, or nobody looks at it.
READABLE = {"no delivery tag"}


@pytest.mark.parametrize("kind", [kind for kind in ENVELOPES if kind not in READABLE])
def test_an_envelope_that_cannot_be_read_is_a_dead_letter(
    database: Any, connect: Callable[..., Client], queue: str, kind: str
) -> None:
    client = connect(database.url)
    client.publish("before", queue)
    insert_raw(database.url, queue, ENVELOPES[kind])
    client.publish("after", queue)
    inbox = client.consume(queue)
    came = []

    def both() -> bool:
        inbox.drain(0.1)
        came.extend(inbox.messages)
        inbox.messages.clear()
        return len(came) >= 2

    wait_until(both, DEADLINE_S, "its neighbours")
    assert [message.payload for message in came] == ["before", "after"]
    for message in came:
        message.ack()
    wait_until(lambda: dead_letters(database.url) == 1, DEADLINE_S, "the dead letter")
    wait_until(lambda: rows_of(database.url) == 0, DEADLINE_S, "an empty queue")
    assert inbox.nothing()


def test_a_dead_letter_says_why_and_keeps_the_message(
    database: Any, connect: Callable[..., Client], queue: str
) -> None:
    client = connect(database.url)
    client.publish("x", queue)
    insert_raw(database.url, queue, "keep { these bytes")
    inbox = client.consume(queue)
    inbox.take_acked()
    wait_until(lambda: dead_letters(database.url) == 1, DEADLINE_S, "the dead letter")
    kept = scalar(database.url, "SELECT d::text FROM kombu_dead_letter AS d")
    assert "keep { these bytes" in kept
    assert "JSON" in kept


def test_an_eta_whose_offset_postgresql_does_not_know_is_kept(
    database: Any, connect: Callable[..., Client], queue: str
) -> None:
    client = connect(database.url)
    client.publish("before", queue)
    for offset in ("+23:59", "+05:30:15.5"):
        insert_raw(database.url, queue, payload(offset, queue, eta=f"2020-01-01T00:00:00{offset}"))
    inbox = client.consume(queue)
    assert set(inbox.take_acked(3)) == {"before", "+23:59", "+05:30:15.5"}


@pytest.mark.parametrize("kind", ["no JSON", "nested too deeply", "list", "bad base64"])
def test_a_worker_goes_on_after_a_message_that_cannot_be_read(pool: Probe, kind: str) -> None:
    before = dead_letters(pool.url)
    insert_raw(pool.url, "celery", ENVELOPES[kind])
    wait_until(lambda: dead_letters(pool.url) == before + 1, DEADLINE_S, "the dead letter")
    tag = unique("after")
    assert pool.send("run", tag).get(timeout=DEADLINE_S, interval=0.02) == tag


@pytest.mark.parametrize(
    "content_type", ["application/x-python-serialize", "application/x-unheard-of"], ids=["pickle", "unknown"]
)
def test_a_body_that_a_worker_may_not_read_loses_nothing_silently(pool: Probe, content_type: str) -> None:
    """Celery refuses it; the message is a dead letter or the task failed with a reason, and the worker goes on."""
    result_id = secrets.token_hex(8)
    text = payload([[], {}, {}], "celery", id=result_id, task="probe.run", lang="py", argsrepr="()", kwargsrepr="{}")
    insert_raw(pool.url, "celery", text.replace("application/json", content_type))
    wait_until(lambda: rows_of(pool.url, "celery") == 0, DEADLINE_S, "the message to be dealt with")
    tag = unique("after")
    assert pool.send("run", tag).get(timeout=DEADLINE_S, interval=0.02) == tag
    assert dead_letters(pool.url, result_id) == 1 or pool.app.AsyncResult(result_id).state == "FAILURE"


# -- odd but harmless


def test_a_task_whose_id_is_a_uuid_runs_under_its_text(pool: Probe) -> None:
    """Kombu writes a UUID as an object, and no worker can run a task whose id is one."""
    task_id, tag = uuid4(), unique("id")
    result = pool.send("run", tag, task_id=task_id)
    assert result.get(timeout=DEADLINE_S, interval=0.02) == tag
    assert pool.app.AsyncResult(str(task_id)).get(timeout=DEADLINE_S) == tag
    assert dead_letters(pool.url, str(task_id)) == 0


@pytest.mark.parametrize(
    "headers",
    [{"id": "nul\x00id"}, {"id": 5}, {"id": "x" * 5000}, {"id": ["list"]}, {"task": 7, "id": "i", "expires": "soon"}],
    ids=["NUL", "number", "long", "list", "nonsense"],
)
def test_headers_of_odd_types_are_carried(client: Client, queue: str, headers: dict[str, Any]) -> None:
    client.publish("x", queue, headers=headers)
    (message,) = client.consume(queue).take()
    assert {name: message.headers[name] for name in headers} == headers
    message.ack()


@pytest.mark.parametrize("properties", [{"priority": "high"}, {"priority": 3.7}], ids=["text", "fraction"])
def test_a_priority_that_is_no_number_loses_nothing(client: Client, queue: str, properties: dict[str, Any]) -> None:
    client.publish("x", queue, **properties)
    assert client.consume(queue).take_acked() == ["x"]


def test_an_url_with_an_unknown_parameter_names_it() -> None:
    connection = Connection("sqla+postgresql://app_user:geheim@127.0.0.1:1/x?sslmode=prefer&no_such_parameter=wert")
    with pytest.raises(ValueError, match="no_such_parameter") as refusal:
        connection.connect()
    assert "geheim" not in str(refusal.value)
    assert "wert" not in str(refusal.value)
    connection.release()


@pytest.mark.parametrize("password", ["ge/h?eim", "ge?heim=1", "ge/h?eim=1&x=2"])
def test_an_url_whose_password_looks_like_a_parameter_does_not_show_it(password: str) -> None:
    connection = Connection(f"sqla+postgresql://app_user:{password}@127.0.0.1:1/x?no_such_parameter=1")
    with pytest.raises(ValueError, match="not one that libpq understands") as refusal:
        connection.connect()
    assert "eim" not in str(refusal.value)
    connection.release()


@pytest.mark.parametrize(
    "form", ["http://u:geheim@h/x", "geheim", "password=geheim foo=1", "sqla+postgresql://u:geheim@h:x:y/?a=1"]
)
def test_a_direct_address_that_cannot_be_read_is_not_shown(connect: Any, queue: str, form: str) -> None:
    with pytest.raises(ValueError, match=r"listen_dsn.* is not one that libpq understands") as refusal:
        connect(listen_dsn=form).consume(queue)
    assert "geheim" not in str(refusal.value)


def test_a_direct_address_may_be_written_as_the_brokers(connect: Any, module_database: Any, queue: str) -> None:
    for number, form in enumerate((module_database.url, "sqla+" + module_database.url)):
        client = connect(listen_dsn=form)
        client.publish(number, queue)
        assert client.consume(queue).take_acked() == [number]
        client.close()


def test_libpqs_parameters_are_passed_on(module_database: Any, queue: str) -> None:
    name = f"named-{queue}"
    url = f"sqla+{module_database.url}&application_name={name}&options=-c%20statement_timeout%3D12345ms"
    connection = Connection(url)
    connection.SimpleQueue(queue).put("x")
    seen = "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name"
    assert scalar(module_database.url, seen, name=name) >= 1
    connection.release()


def test_other_databases_still_go_to_the_stock_transport(tmp_path: Any) -> None:
    connection = Connection(f"sqla+sqlite:///{tmp_path}/broker.sqlite")
    simple = connection.SimpleQueue("q")
    simple.put("x")
    assert simple.get(timeout=DEADLINE_S).payload == "x"
    simple.close()
    connection.release()


# -- poison: messages that Celery itself stumbles over


def _poison() -> dict[str, str]:
    """Name → the payload of a message for ``probe.run`` with one thing wrong."""
    good = {"task": "probe.run", "id": "poison", "lang": "py", "argsrepr": "hunter2"}
    headers: dict[str, dict[str, Any]] = {
        "task-list": {"task": ["x"]},
        "task-dict": {"task": {"x": 1}},
        "id-list": {"id": ["x"]},
        "id-dict": {"id": {}},
        "id-number-of-nobody": {"id": 7, "task": "probe.nobody"},
        "timelimit-text": {"timelimit": "x"},
        "timelimit-text-in-pair": {"timelimit": [None, "hunter2"]},
        "timelimit-three": {"timelimit": [1, 2, 3]},
        "eta-object": {"eta": {}},
        "expires-object": {"expires": {}},
        "stamps": {"stamped_headers": 7},
        "shadow-list": {"shadow": ["x"]},
        "shadow-dict": {"shadow": {}},
    }
    found = {name: payload([["hunter2"], {}, {}], "celery", **{**good, **wrong}) for name, wrong in headers.items()}
    found["no-id"] = payload([["hunter2"], {}, {}], "celery", task="probe.run")
    for name, body in {"body-null": None, "body-short": [1], "body-text": "hunter2"}.items():
        found[name] = payload(body, "celery", **good)
    typed = json.loads(payload([["hunter2"], {}, {}], "celery", **good))
    found["content-type"] = json.dumps({**typed, "content-type": {}})
    found["not-base64"] = json.dumps({**typed, "body": "hunter2"})
    return found


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_message_that_celery_stumbles_over_ends_no_worker(probe: Probe, pool: str) -> None:
    before = probe.send("run", "before")  # makes the queue
    for text in _poison().values():
        insert_raw(probe.url, "celery", text)
    worker = probe.start(pool=pool)

    wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "all of them to be gone")

    assert before.get(timeout=DEADLINE_S) == "before"
    assert probe.send("run", "after").get(timeout=DEADLINE_S) == "after"
    assert worker.process.poll() is None
    # A result is stored before its task is over.
    wait_until(lambda: probe.inspect(worker, "reserved") == [], DEADLINE_S, "nothing to be held")
    assert "hunter2" not in worker.log_text()
    assert dead_letters(probe.url) >= len(_poison()) - 1
    worker.stop()
    assert worker.process.returncode == 0
