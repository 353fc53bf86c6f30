"""Messages with anything in them, to real workers: each runs or becomes a dead letter, and the worker goes on."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from environment.waiting import wait_until
from tests.broker.probe import DEADLINE_S, Probe
from tests.broker.sql import rows_of
from tests.broker.stock_rows import payload
from tests.broker.test_bad_input import insert_raw

#: Each in the place of anything. None is due in the future: that message would wait, and rightly.
VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 7.5, float("inf"), -float("inf"), 10**30),
    *("", "x", "\u202e", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00"),
    *("gzip", "zlib", "application/json", "application/x-python-serialize", "pickle", "utf-8", "binary", "base64"),
    *("probe.echo", "probe.nobody", "celery.chord", "celery.group", "celery.backend_cleanup"),
    *([], ["x"], [None, None], [[]], [["x"], {}, {}], {}, {"a": 1}, {"a": {}}),
]
HEADERS = [
    *("task", "id", "lang", "root_id", "parent_id", "group", "group_index", "timelimit", "eta", "expires", "retries"),
    *("argsrepr", "kwargsrepr", "origin", "ignore_result", "stamped_headers", "stamps", "replaced_task_nesting"),
    *("shadow", "meth", "compression", "delivery_info", "args", "kwargs", "utc", "callbacks", "errbacks", "chord"),
]
PROPERTIES = [
    *("correlation_id", "reply_to", "delivery_mode", "priority", "delivery_info", "delivery_tag", "body_encoding"),
    "expiration",
]
PARTS = ["body", "content-type", "content-encoding", "headers", "properties"]
EMBEDDED = ["callbacks", "errbacks", "chain", "chord"]


def hostile(chance: random.Random, number: int) -> str:
    """The payload of a message for ``probe.echo`` with up to five things wrong."""
    headers: dict[str, Any] = {"task": "probe.echo", "id": f"hostile-{number}", "lang": "py"}
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        headers[chance.choice(HEADERS)] = chance.choice(VALUES)
    if chance.random() < 0.1:
        del headers[chance.choice(list(headers))]
    body: Any = [["x"], {}, dict.fromkeys(EMBEDDED)]
    match chance.randrange(8):
        case 0:
            body[2][chance.choice(EMBEDDED)] = chance.choice(VALUES)
        case 1:
            body = chance.choice(VALUES)
        case 2:
            body[chance.randrange(3)] = chance.choice(VALUES)
    content = json.loads(payload(body, "celery", **headers))
    match chance.randrange(8):
        case 0:
            content["properties"][chance.choice(PROPERTIES)] = chance.choice(VALUES)
        case 1:
            content[chance.choice(PARTS)] = chance.choice(VALUES)
    return json.dumps(content)


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_messages_with_anything_in_them_end_no_worker(probe: Probe, pool: str, installed: None, quick: bool) -> None:
    chance = random.Random(pool)  # noqa: S311
    before = probe.send("run", "before")  # makes the queue
    for number in range(300 if quick else 3_000):
        insert_raw(probe.url, "celery", hostile(chance, number))
    worker = probe.start(pool=pool)

    wait_until(lambda: rows_of(probe.url, "celery") == 0, 5 * DEADLINE_S, "all of them to be gone")

    assert before.get(timeout=DEADLINE_S) == "before"
    assert probe.send("run", "after").get(timeout=DEADLINE_S) == "after"
    assert worker.process.poll() is None
    worker.stop()
