"""Messages with arbitrary content, the same for the same seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg2
from kombu.utils import json as kombu_json

from environment.testkit.stock_rows import _INSERT, payload

#: Each replaces any value.  None is a future ETA: such a message would rightly wait.
VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 5, 7.5, float("inf"), -float("inf"), float("nan"), 10**30, 2**63),
    *("", "x", "a\0b", "\ud800", "\u202e", "x" * 500, "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00"),
    *("gzip", "bzip2", "xz", "application/json", "application/x-python-serialize", "pickle", "utf-8", "binary"),
    *("base64", "probe.nobody", "celery.chord", "celery.group", "celery.chain", "celery.map", "celery.backend_cleanup"),
    *([], [5], ["x"], [None, None], [[]], [["x"], {}, {}], {}, {"a": 1}, {"a": {}}, {"task": "x"}, [{"task": "x"}]),
    # Of types that Kombu's JSON has, which headers and properties arrive with.
    *(
        json.loads(kombu_json.dumps(one))
        for one in (datetime.min.replace(tzinfo=UTC), date.max, time.max, Decimal("NaN"), UUID(int=8))
    ),
    *(json.loads(kombu_json.dumps(one)) for one in (b"bytes", b"\xff", [UUID(int=8)], {"a": Decimal("1e999999")})),
]
#: The last ones are names of methods and attributes of Celery's request.
HEADERS = [
    *("task", "id", "lang", "root_id", "parent_id", "group", "group_index", "timelimit", "eta", "expires", "retries"),
    *("argsrepr", "kwargsrepr", "origin", "ignore_result", "stamped_headers", "stamps", "replaced_task_nesting"),
    *("shadow", "meth", "compression", "delivery_info", "args", "kwargs", "utc", "callbacks", "errbacks", "chord"),
    *("chain", "headers", "properties", "hostname", "reply_to", "correlation_id", "is_eager", "called_directly"),
    *("get", "update", "clear", "children", "_children", "_protected", "__class__", "__dict__", "tenant_id"),
]
PROPERTIES = [
    *("correlation_id", "reply_to", "delivery_mode", "priority", "delivery_info", "delivery_tag", "body_encoding"),
    "expiration",
]
PARTS = ["body", "content-type", "content-encoding", "headers", "properties"]
EMBEDDED = ["callbacks", "errbacks", "chain", "chord"]
OPTIONS = ["link", "link_error", "chord", "task_id", "group_id", "headers", "queue", "priority", "stamped_headers"]


def shapes(seed: str, count: int, task: str) -> Iterator[str]:
    """Payloads of messages for `task`, which takes any arguments, each with up to five things wrong."""
    chance = random.Random(seed)  # noqa: S311
    for number in range(count):
        yield _shape(chance, f"hostile-{number}", task)


def insert_all(url: str, queue: str, texts: Iterator[str]) -> None:
    """Insert payloads as rows of stock Kombu, in one transaction."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        for text in texts:
            cursor.execute(_INSERT, [text, queue])


def _signature(chance: random.Random, task: str, depth: int = 2) -> Any:
    """What may follow a task: often right, often with something wrong."""
    kind = chance.choice([None, None, "group", "chain", "chord", "xmap", "chunks", "nobody"])
    inner = [_signature(chance, task, depth - 1) for _ in range(chance.randrange(3))] if depth else []
    kwargs: Any = {
        "group": {"tasks": inner},
        "chain": {"tasks": inner},
        "chord": {"header": inner, "body": inner[0] if inner else None, "kwargs": {}},
        "xmap": {"task": inner[0] if inner else None, "it": [1, 2]},
        "chunks": {"task": inner[0] if inner else None, "it": [[1], [2]], "n": 1},
    }.get(kind or "", {})
    made = {
        "task": f"celery.{kind}" if kind in ("group", "chain", "chord") else task,
        "args": [],
        "kwargs": kwargs,
        "options": {},
        "subtask_type": kind,
        "immutable": False,
    }
    match chance.randrange(6):
        case 0:
            made[chance.choice(list(made))] = copy.deepcopy(chance.choice(VALUES))
        case 1:
            made["options"] = {chance.choice(OPTIONS): copy.deepcopy(chance.choice(VALUES))}
        case 2:
            del made[chance.choice(list(made))]
        case 3 if kwargs:
            kwargs[chance.choice(list(kwargs))] = copy.deepcopy(chance.choice(VALUES))
    return made


def _embedded(chance: random.Random, task: str) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(EMBEDDED)
    for _ in range(chance.randrange(3)):
        name = chance.choice([*EMBEDDED, *EMBEDDED, chance.choice(HEADERS)])
        signature = _signature(chance, task)
        several = [signature] * chance.randrange(3)
        found[name] = chance.choice([signature, several, several, copy.deepcopy(chance.choice(VALUES))])
    return found


def _shape(chance: random.Random, identity: str, task: str) -> str:
    headers: dict[str, Any] = {"task": task, "id": identity, "lang": "py"}
    body: Any = [["x"], {}, _embedded(chance, task)]
    match chance.randrange(10):
        case 0:
            body = chance.choice(VALUES)
        case 1:
            body[chance.randrange(3)] = copy.deepcopy(chance.choice(VALUES))
        case 2:  # the protocol of Celery 3
            headers, body = {}, {"task": task, "id": identity, "args": ["x"], "kwargs": {}, **_embedded(chance, task)}
            body[chance.choice([*body, *HEADERS])] = copy.deepcopy(chance.choice(VALUES))
    for _ in range(chance.choice([0, 0, 1, 1, 2, 3])):
        headers[chance.choice(HEADERS)] = copy.deepcopy(chance.choice(VALUES))
    if headers and chance.random() < 0.1:
        del headers[chance.choice(list(headers))]
    content = json.loads(payload(body, "celery", **headers))
    match chance.randrange(8):
        case 0:
            content["properties"][chance.choice(PROPERTIES)] = copy.deepcopy(chance.choice(VALUES))
        case 1:
            content[chance.choice(PARTS)] = copy.deepcopy(chance.choice(VALUES))
        case 2:
            content["properties"]["delivery_info"][chance.choice(["exchange", "routing_key", "x"])] = chance.choice(
                VALUES
            )
    return json.dumps(content)
