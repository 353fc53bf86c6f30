"""What comes in a queue that nobody acknowledges: events, remote control and its replies. It ends no worker and no
client; what cannot be used is dropped."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

from environment.testkit.client import DEADLINE_S
from environment.testkit.databases import rows
from environment.testkit.hostile import VALUES, insert_all
from environment.testkit.probe import POOLS, Probe, every_slot_works
from environment.testkit.stock_rows import payload
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until

EVENT = {"type": "worker-heartbeat", "hostname": "x@y", "timestamp": 1.0, "clock": 1, "utcoffset": 0, "pid": 1}
LAST = {**EVENT, "type": "x-last"}
COMMAND = {"method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None}


def _with_anything(good: dict[str, Any]) -> list[Any]:
    """In the place of each field, in the place of all, and without each."""
    return [
        *({**good, name: value} for name in good for value in VALUES),
        *VALUES,
        *({name: good[name] for name in good if name != left_out} for left_out in good),
    ]


def _rows(bodies: list[Any], **headers: Any) -> list[str]:
    """As rows, those of which the body cannot be read among them; and with anything in the headers."""
    texts = [payload(body, "celery", **headers) for body in bodies]
    texts += [payload(bodies[0], "celery", **{**headers, name: value}) for name in ("clock", "hostname", "compression",
              "expires", "ticket") for value in VALUES]  # fmt: skip
    torn = json.loads(texts[0])
    texts += [
        json.dumps({**torn, **wrong}) for wrong in ({"body": "hunter2"}, {"content-type": {}}, {"properties": {}})
    ]
    return texts


EVENTS = _rows([*_with_anything(EVENT), *_with_anything({**EVENT, "type": "task-received", "uuid": "u", "name": "n"})])
EVENTS += _rows([[one] for one in VALUES])
EVENTS += _rows(_with_anything({**EVENT, "type": "worker-elect", "id": "i", "topic": "task", "action": {}, "cver": 1}))
COMMANDS = _rows([
    *_with_anything({**COMMAND, "ticket": "t", "reply_to": {"exchange": "e", "routing_key": "k"}}),
    *({**COMMAND, "reply_to": {"exchange": value, "routing_key": value}} for value in VALUES),
    *({**COMMAND, "method": "revoke", "arguments": {"task_id": value}} for value in VALUES),
    *({**COMMAND, "method": "rate_limit", "arguments": {"task_name": "probe.run", "rate_limit": value}}
      for value in ({}, [], "x", {"a": 1})),
    *({**COMMAND, "method": "time_limit", "arguments": {"task_name": "probe.run", "hard": value, "soft": None}}
      for value in ({}, [], "x", {"a": 1})),
    *({**COMMAND, "method": "hello", "arguments": {"from_node": "x", "revoked": value}} for value in VALUES),
])  # fmt: skip
REPLIES = _rows([{"x@y": {"ok": "pong"}}, *VALUES, {"x@y": [1]}])


def _ticket(text: str) -> Any:
    headers = json.loads(text)["headers"]
    return headers.get("ticket") if isinstance(headers, dict) else None


def _some(texts: list[str], seed: str) -> list[str]:
    """Few enough for a worker that looks for them about once a second; each pool gets others."""
    return random.Random(seed).sample(texts, 250)  # noqa: S311


def _queues(url: str, like: str) -> list[str]:
    return [name for (name,) in rows(url, "SELECT name FROM kombu_queue WHERE name LIKE :like", like=like)]


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_outlives_every_event_and_command(probe: Probe, pool: str) -> None:
    worker = probe.start(pool=pool, conf={"broker_transport_options": {"gossip": True}})
    wait_until(lambda: _queues(probe.url, "celeryev.%"), DEADLINE_S, "its queue of events")
    (events,) = _queues(probe.url, "celeryev.%")
    (commands,) = _queues(probe.url, f"{worker.name}%pidbox")  # type: ignore[attr-defined]

    insert_all(probe.url, events, iter(_some(EVENTS, pool)))
    insert_all(probe.url, commands, iter(_some(COMMANDS, pool)))
    wait_until(lambda: rows_of(probe.url) == 0, 4 * DEADLINE_S, "all of them to be gone")

    every_slot_works(probe, pool)
    assert worker.process.poll() is None
    assert probe.inspect(worker, "ping") == {"ok": "pong"}
    assert "Dropping message" in worker.log_text()
    assert "hunter2" not in worker.log_text()
    assert probe.inspect(worker, "clock")["clock"] < 2**62


@pytest.mark.parametrize("limit", [None, 1])
def test_inspect_outlives_every_reply(probe: Probe, limit: int | None) -> None:
    """The worker answers after them: a reply that is dropped does not count as one."""
    worker = probe.start()
    app = probe.app
    queue = app.control.mailbox.reply_queue.name
    publish = app.control.mailbox._publish

    def publish_after_others(*arguments: Any, **options: Any) -> None:
        with app.connection_for_write() as connection:
            app.control.mailbox.reply_queue(connection.default_channel).declare()
        texts = [text for text in REPLIES if limit is None or not isinstance(_ticket(text), str)]
        insert_all(probe.url, queue, iter(texts))
        publish(*arguments, **options)

    app.control.mailbox._publish = publish_after_others
    answer = app.control.inspect(timeout=5, limit=limit).ping()
    assert answer == {worker.name: {"ok": "pong"}}  # type: ignore[attr-defined]


def test_a_receiver_of_events_outlives_every_event(probe: Probe) -> None:
    """And its handlers, which read what Celery's own events have."""
    app, seen = probe.app, []
    state = app.events.State()

    def handle(event: dict[str, Any]) -> None:
        state.event(event)
        seen.append((event["type"], event["hostname"], event["timestamp"] + 1))

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": handle})
        receiver.queue(connection.default_channel).declare()
        insert_all(probe.url, receiver.queue.name, iter([*_some(EVENTS, "receiver"), payload(LAST, "celery")]))
        for _ in receiver.consume(limit=None, timeout=DEADLINE_S, wakeup=False):
            if seen and seen[-1][0] == "x-last":
                break
    assert len(seen) > 1


def test_the_error_of_a_clients_own_handler_reaches_it(probe: Probe) -> None:
    class OwnError(Exception):
        pass

    def handle(_event: dict[str, Any]) -> None:
        raise OwnError

    app = probe.app
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": handle})
        receiver.queue(connection.default_channel).declare()
        insert_all(probe.url, receiver.queue.name, iter([payload(EVENT, "celery")]))
        with pytest.raises(OwnError):
            receiver.capture(limit=None, timeout=DEADLINE_S, wakeup=False)
    with Connection("sqla+" + probe.url) as connection:
        for no_ack in (False, True):
            queue = Queue(f"own-{no_ack}")(connection.default_channel)
            queue.declare()
            connection.Producer().publish("x", routing_key=queue.name)
            consumer = Consumer(connection.channel(), [queue], callbacks=[lambda *_: handle({})], no_ack=no_ack)
            with pytest.raises(OwnError), consumer:
                connection.drain_events(timeout=DEADLINE_S)
            assert scalar(probe.url, "SELECT count(*) FROM kombu_dead_letter") == 0


def test_a_client_that_has_imported_the_worker_is_none(probe: Probe) -> None:
    import celery.worker.state  # noqa: F401

    from celery_postgres.consumer import poison

    assert not poison.in_worker()


def test_a_consumer_of_ones_own_in_a_worker_ends_it_not(probe: Probe) -> None:
    """A bootstep that consumes without acknowledging, and one that acknowledges."""
    worker = probe.start(env={"PROBE_OWN_CONSUMERS": "1"})
    wait_until(lambda: len(_queues(probe.url, "own-%")) == 2, DEADLINE_S, "its queues")
    for name in ("own-acked", "own-eaten"):
        torn = json.loads(payload("x", name))
        torn = {**torn, "headers": {"compression": "bzip2"}}
        insert_all(probe.url, name, iter([payload("x", name), json.dumps(torn)]))
    wait_until(lambda: rows_of(probe.url) == 0, DEADLINE_S, "all of them to be gone")
    every_slot_works(probe, "solo")
    assert worker.process.poll() is None
    wait_until(lambda: scalar(probe.url, "SELECT count(*) FROM kombu_dead_letter") == 2, DEADLINE_S, "the acked ones")
