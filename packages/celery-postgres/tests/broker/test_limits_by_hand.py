"""Limits as operators set them: by the tool and by `operations`, and bad input in one line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celery_postgres import FlowError, operations
from celery_postgres.database.address import parsed
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.pool import Sessions
from celery_postgres.operations import Operations
from environment.testkit.databases import rows
from environment.testkit.keyed import claim, fill, hashes
from environment.testkit.tables import run, scalar


def test_limits_by_the_tool(plain_database: Any, tool: Callable[..., Any]) -> None:
    fill(plain_database.url, 6, 2)
    made = tool("limits", "set", "q", "--key", "0", "--concurrency", "5", "--per-minute", "60", "--weight", "2")
    assert (made["key"], made["concurrency"], made["per_second"], made["burst"], made["weight"]) == ("0", 5, 1.0, 1, 2)
    tool("limits", "set", "q", "--key", "*", "--per-second", "3", "--burst", "9", "--refuse")
    tool("limits", "set", "q", "--concurrency", "100")
    # What is not named stays.
    tool("limits", "set", "q", "--key", "0", "--concurrency", "4")
    shown = tool("limits", "list")
    assert [(row["key"], row["concurrency"], row["per_second"], row["refuse"], row["waiting"]) for row in shown] == [
        (None, 100, None, False, 6),
        ("0", 4, 1.0, False, 3),
        ("*", None, 3.0, True, 6),
    ]
    assert [row["key"] for row in tool("limits", "list", "q")] == [None, "0", "*"]
    assert tool("limits", "list", "another") == []
    assert tool("limits", "set", "q", "--key", "1", "--per-minute", "0")["paused"]
    tool("limits", "set", "q", "--key", "2", "--per-second", "0", "--refuse")
    assert [row["key"] for row in tool("limits", "list") if row["paused"]] == ["1"]
    for key in "012":
        tool("limits", "remove", "q", "--key", key)
    assert [row["key"] for row in tool("limits", "list")] == [None, "*"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("limits", "set", "nowhere", "--concurrency", "1"), "there is no queue 'nowhere'"),
        (("limits", "set", "plain", "--concurrency", "1"), "the queue 'plain' is not fair"),
        (("limits", "set", "q", "--per-second", "-1"), "a rate is 0, or 0.00001 to 1000000 per second, and not -1"),
        (("limits", "set", "q", "--per-second", "nan"), "a rate is 0, or 0.00001 to 1000000 per second"),
        (("limits", "set", "q", "--concurrency", "-1"), "a concurrency is 0 to 2147483647, and not -1"),
        (("limits", "set", "q", "--key", "k", "--weight", "0"), "a weight is 1 to 100, and not 0"),
        (("limits", "set", "q", "--weight", "2"), "a weight belongs to a key"),
        (("limits", "set", "q", "--burst", "2"), "a burst and a refusal belong to a rate"),
        (("limits", "set", "q"), "which limit? give a concurrency, a rate or a weight"),
        (("limits", "set", "--concurrency", "1"), "which queue? give its name"),
        (("limits", "set", "--task", "t", "--concurrency", "1"), "limits of a task's name do not exist: route"),
        (("limits", "set", "q", "--key", "k" * 10_000, "--concurrency", "1"), "a flow_key has at most 200 characters"),
        (("limits", "set", "q", "--key", "", "--concurrency", "1"), "the empty key is that of messages without one"),
        (("limits", "remove", "q", "--key", "k"), "q --key k has no limits"),
        (("limits", "set", "q", "--per-minute", "-5"), "a rate is 0, or 0.00060 to 60000000 per minute, and not -5"),
        (("limits", "set", "q", "--key", "\udcff", "--concurrency", "1"), "a flow_key has half of a surrogate pair"),
        (("limits", "set", "\udcff", "--concurrency", "1"), "there is no queue '\\udcff'"),
        (("limits", "list", "a\0b"), "there is no queue 'a\\x00b'"),
        (("fair", "\udcff"), "there is no queue '\\udcff'"),
        (("drain", "q", "--key", "0", "--wait", "nan"), "the time to wait is 0 seconds or more, and not nan"),
        (("drain", "q", "--key", "0", "--wait", "-1"), "the time to wait is 0 seconds or more, and not -1"),
        (("drain", "q", "--key", "*"), "`*` is no key of a message"),
        (("fair", "nowhere", "on"), "there is no queue 'nowhere'"),
        (("drain", "plain", "--key", "k"), "the queue 'plain' is not fair"),
        (("purge", "plain", "--key", "k", "--yes"), "the queue 'plain' is not fair"),
    ],
)
def test_bad_input_is_one_line(
    plain_database: Any, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    from celery_postgres.tool import cli

    fill(plain_database.url, 1)
    run(plain_database.url, "INSERT INTO kombu_queue (name) VALUES ('plain')")
    assert cli.main(words, plain_database.url) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"celery_postgres: {said}")
    assert error.count("\n") == 1
    assert scalar(plain_database.url, "SELECT count(*) FROM kombu_limit") == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"concurrency": True}, "a concurrency is 0 to 2147483647, and not True"),
        ({"key": "k", "weight": True}, "a weight is 1 to 100, and not True"),
        ({"per_second": 1.0, "burst": False}, "a burst is 1 to 1000000, and not False"),
        ({"per_second": True}, "a rate is 0, or .* and not True"),
        ({"per_second": "1"}, "a rate is 0, or .* and not a str"),
        ({"per_second": 10**5000}, "a rate is 0, or .* and not a number of 16610 bits"),
        ({"concurrency": 10**5000}, "a concurrency is .* and not a number of 16610 bits"),
        ({"per_second": 1.0, "refuse": "no"}, "refuse is True or False, and not a str"),
        ({"key": "a\0b", "concurrency": 1}, "a flow_key has a NUL character"),
        ({"key": 7, "concurrency": 1}, "a flow_key is a text .* not int"),
    ],
)
def test_a_limit_of_a_wrong_type_is_one_line(
    plain_database: Any, broker: Operations, given: dict[str, Any], said: str
) -> None:
    fill(plain_database.url, 1)
    with pytest.raises(FlowError, match=f"^{said}"):
        broker.set_limit("q", **given)
    assert broker.limits() == []


@pytest.mark.parametrize("name", ["a\0b", "a\udcff"])
def test_a_name_that_cannot_be_stored_is_one_line(broker: Operations, name: str) -> None:
    for ask in (lambda: broker.limits(key=name), lambda: broker.purge_key("q", name)):
        with pytest.raises(FlowError, match=r"^a flow_key has (a NUL|half of a surrogate)"):
            ask()
    for ask in (lambda: broker.limits(name), lambda: broker.remove_limit(name), lambda: broker.set_fair(name)):
        with pytest.raises(FlowError, match=r"^there is no queue"):
            ask()


def test_a_queue_becomes_fair_and_ceases_to_be(
    plain_database: Any, tool: Callable[..., Any], make_app: Callable[[str], Any]
) -> None:
    url = plain_database.url
    app = make_app(url)
    tenant = "00000000-0000-0000-0000-00000000000a"
    app.send_task("t", queue="q", headers={"flow_key": "a"})
    app.send_task("t", queue="q", headers={"tenant_id": tenant})
    app.send_task("t", queue="q", countdown=3600)
    run(url, "INSERT INTO kombu_message (queue_id, payload) SELECT id, 'no JSON \"flow_key\"' FROM kombu_queue")
    for text in ("acme", ["acme"]):  # no UUIDs
        app.send_task("t", queue="q", headers={"tenant_id": text})
    before = rows(url, "SELECT available_at FROM kombu_message ORDER BY id")
    assert tool("fair", "q") == {"queue": "q", "fair": False}
    assert tool("fair", "q", "on") == {"queue": "q", "fair": True, "count": 6}
    expected = [scalar(url, "SELECT hashtextextended(:key, 0)", key=key) for key in ("a", tenant, "", "", "acme", "")]
    keys = rows(url, "SELECT flow_key, flow_later, available_at IS NOT NULL FROM kombu_message ORDER BY id")
    assert keys == [
        (expected[0], None, True),
        (expected[1], None, True),
        (None, expected[2], True),
        *((one, None, True) for one in expected[3:]),
    ]
    tool("limits", "set", "q", "--concurrency", "1")
    with pytest.raises(AssertionError):
        tool("fair", "q", "off")
    tool("limits", "remove", "q")
    assert tool("fair", "q", "off") == {"queue": "q", "fair": False, "count": 6}
    assert rows(url, "SELECT available_at FROM kombu_message ORDER BY id") == before
    assert scalar(url, "SELECT count(*) FROM kombu_message WHERE flow_key IS NOT NULL OR flow_later IS NOT NULL") == 0


def test_maintenance_takes_the_keys_that_a_late_publish_has_left(plain_database: Any) -> None:
    url = plain_database.url
    queue = fill(url, 5, 2)
    run(url, f"UPDATE kombu_queue SET fair = false WHERE id = {queue}")  # noqa: S608
    LimitStore(Sessions(parsed(url, "broker"))).clear_unfair()
    assert rows(url, "SELECT DISTINCT flow_key, available_at FROM kombu_message") == [(None, None)]


def test_the_messages_of_a_key_are_purged_and_drained(
    plain_database: Any, tool: Callable[..., Any], messages: MessageStore, make_app: Callable[[str], Any]
) -> None:
    url = plain_database.url
    queue, keys = fill(url, 10, 2), hashes(url, 2)
    make_app(url).send_task("t", queue="q", headers={"flow_key": "1"}, countdown=3600)
    last = f"SELECT max(id) FROM kombu_message WHERE flow_key = {keys[1]}"  # noqa: S608
    (held,) = claim(messages, queue, [keys[1]], share=1, limit=1).messages
    run(url, f"UPDATE kombu_message SET failures = 1 WHERE id = ({last})")  # noqa: S608
    waiting = tool("purge", "q", "--key", "1")
    assert (waiting["count"], waiting["dry_run"]) == (5, True)
    assert tool("purge", "q", "--key", "1", "--yes")["count"] == 5
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 6
    thread = threading.Timer(0.3, lambda: messages.settle([held.claim]))
    thread.start()
    assert tool("drain", "q", "--key", "1") == {"queue": "q", "key": "1", "running": 0}
    thread.join()
    assert json.dumps(tool("limits", "list")[0]["concurrency"]) == "0"


def test_an_application_that_acknowledges_early_is_told_when_it_sets_a_concurrency(
    plain_database: Any, make_app: Callable[[str], Any]
) -> None:
    fill(plain_database.url, 0)
    app = make_app(plain_database.url)
    with operations.of(app) as broker:
        with pytest.raises(
            FlowError, match=r"^a concurrency counts what is not acknowledged.*set task_acks_late = True"
        ):
            broker.set_limit("q", key="*", concurrency=1)
        broker.set_limit("q", key="*", concurrency=0)
        broker.set_limit("q", key="*", per_second=1)
        app.conf.task_acks_late = True
        broker.set_limit("q", key="*", concurrency=1)
