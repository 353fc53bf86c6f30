"""Limits: what keys may use and use now, what they mean for a tenant, and setting them."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import psycopg2
import pytest

from celery_postgres import operations
from celery_postgres.console.formatting import rate
from celery_postgres.console.views.limits import means
from celery_postgres.readmodel import CursorError, ReadModel
from environment.testkit import night
from environment.testkit.console import Answer, Console
from environment.testkit.tables import rows, run

_MESSAGES = """
    INSERT INTO kombu_message (queue_id, tenant_id, flow_key, payload, available_at, visible, claimed_at)
    SELECT queue.id, asked.tenant::uuid, hashtextextended(asked.key, 0), asked.payload, now() - interval '90 s',
        number > 2, now()
    FROM (SELECT %s AS tenant, %s AS key, %s AS messages, %s AS payload) AS asked, kombu_queue AS queue,
        generate_series(1, asked.messages) AS number
    WHERE queue.name = 'llm'
"""
_ENDED = """
    INSERT INTO celery_taskmeta (id, task_id, status, date_done, queue, tenant_id, published_at, started_at)
    SELECT nextval('task_id_sequence'), 'waited-' || n, 'SUCCESS', timezone('UTC', now()), 'mail', %s,
        now() - (100 + n) * interval '1 s', now()
    FROM generate_series(-5, 5) AS n
"""
ACME, BOREALIS = str(night.ACME), str(night.BOREALIS)


@pytest.fixture(scope="module", autouse=True)
def _limits(module_database: Any, served: Console) -> None:
    night.limit(module_database.url)
    # 2 of tenant A run, where it may run 1, and 3 wait; of another key, whose text only its hash shows, 1 runs.
    for tenant, key, messages in ((ACME, ACME, 5), (None, "user:7", 1)):
        values = [tenant, key, messages, night.message("app.tasks.llm.routing", "llm", night.task_id(key))]
        run_with(module_database.url, _MESSAGES, values)


def run_with(url: str, statement: str, values: list[Any]) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)


def act(served: Console, who: str = "operator", **asked: str) -> Answer:
    return served.get(f"/act?{urlencode(asked)}", who)


def confirm(served: Console, plan: Answer, **changed: str) -> Answer:
    form = plan.text.partition('action="/act"')[2]
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
    return served.request("POST", "/act", fields | changed, Cookie=served.cookie("operator"))


def stored(url: str, key: str) -> list[tuple[Any, ...]]:
    found = rows(url, "SELECT key, max_running, round(per_second::numeric, 3)::text, refuse FROM kombu_limit")
    return [row[1:] for row in found if row[0] == key]


def text(answer: Answer) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text.partition("<main")[2]))


def test_staff_see_limits_with_what_uses_them(served: Console) -> None:
    page = served.get("/limits", "reader")
    shown = text(page)
    assert "5 of each key at once" in shown
    assert re.search(rf"{ACME} at its limit: \d+ running", shown)
    assert "hash of a key" in shown
    assert "user:7" not in shown
    assert "Change…" not in shown
    assert "Change…" in served.get("/limits").text
    one = text(served.get("/limits?key=user:7&queue=llm"))
    assert "Key user:7" in one
    assert "1 of 5" in one
    assert served.get("/limits?after=nonsense").status == 404
    assert served.get("/limits?queue=mail").status == 200


def test_a_tenant_sees_its_own(served: Console) -> None:
    own = text(served.get("/limits", "tenant A"))
    assert "It is your limit: 2 of 1 places are in use." in own
    assert "paused" not in own
    assert BOREALIS not in own
    assert "Your tasks of queue llm wait for your own limit" in text(served.get("/tasks", "tenant A"))
    other = served.get("/limits?key=" + ACME, "tenant B")
    assert other.status == 200
    assert ACME not in other.text.replace(f"key={ACME}", "")
    assert "8 of 5 places" in other.text, "its own"
    for path in ("/limit?queue=llm", "/act?do=limit&queue=llm&key=*&concurrency=1", "/act?do=unlimit&queue=llm&key=*"):
        assert served.get(path, "tenant A").status == 404
        assert served.get(path, "reader").status == 404


def test_a_limit_is_set_after_a_dry_run(served: Console) -> None:
    url = served.database_url
    form = served.get("/limit?queue=llm&key=user%3A7")
    assert "It has none of its own now." in form.text
    plan = act(served, do="limit", queue="llm", key="user:7", concurrency="3", per_minute="90", refuse="yes")
    assert "A dry run: nothing is changed yet." in plan.text
    assert "then at most 3 run at once" in plan.text
    assert "beyond 90 a minute is refused" in plan.text
    assert stored(url, "user:7") == []
    done = confirm(served, plan)
    assert "The limits of key user:7 of queue llm are set." in done.text
    assert stored(url, "user:7") == [(3, "1.500", True)]
    assert "3 at once; 90 a minute" in text(served.get("/limit?queue=llm&key=user%3A7"))
    gone = act(served, do="unlimit", queue="llm", key="user:7")
    assert "What holds for each key (*) holds for it from now on" in gone.text
    assert "are removed." in confirm(served, gone).text
    assert stored(url, "user:7") == []
    assert "It has no limits of its own." in act(served, do="unlimit", queue="llm", key="user:7").text


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "Which limit? give a concurrency, a rate or a weight."),
        ({"concurrency": "many"}, "A concurrency is a whole number, such as 5."),
        ({"concurrency": "-1"}, "A concurrency is a whole number, such as 5."),
        ({"concurrency": "99999999999"}, "A concurrency is 0 to 2147483647"),
        ({"per_minute": "fast"}, "A rate is a number, such as 120 or 0.5."),
        ({"per_minute": "nan"}, "A rate is 0, or"),
        ({"per_minute": "1e99"}, "A rate is 0, or"),
        ({"burst": "3"}, "A burst and a refusal belong to a rate"),
        ({"weight": "101"}, "A weight is 1 to 100"),
        ({"concurrency": "1", "queue": "mail"}, "There is no fair queue of this name."),
        ({"concurrency": "1", "queue": "none"}, "There is no fair queue of this name."),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(served: Console, asked: dict[str, str], says: str) -> None:
    plan = act(served, **{"do": "limit", "queue": "llm", "key": "user:8", **asked})
    assert says in plan.text
    assert 'action="/act"' not in plan.text
    assert stored(served.database_url, "user:8") == []


def test_keys_come_in_pages(module_database: Any) -> None:
    run(
        module_database.url,
        "INSERT INTO kombu_limit (queue_id, key, flow_key, max_running)"
        " SELECT id, 'k.' || n, hashtextextended('k.' || n, 0), 9"
        " FROM kombu_queue, generate_series(1, 120) AS n WHERE name = 'llm'",
    )
    with closing(ReadModel(module_database.url)) as model:
        seen, cursor = [], None
        while True:
            page = model.limits("llm", cursor)
            seen += [row.key for row in page.of_keys]
            cursor = page.next
            if cursor is None:
                break
        assert len(seen) == len(set(seen)) == 121
        assert model.limits("mail").of_keys == ()
        for nonsense in ("", "x", "9" * 19 + ".k", "-1.k"):
            with pytest.raises(CursorError):
                model.limits(None, nonsense)
        assert model.limit("llm", "\0") is None


def test_what_a_tenant_waits(module_database: Any) -> None:
    """By its last ended tasks, or by the one that waits."""
    run_with(module_database.url, _ENDED, [BOREALIS])
    with closing(ReadModel(module_database.url)) as model:
        found = {one.queue: one for one in model.standing(BOREALIS, night.BOREALIS)}
        mail = found["mail"].waits
        assert mail is not None
        assert (round(mail.median_s), mail.tasks, found["mail"].fair, found["mail"].cause) == (100, 11, False, None)
        acme = {one.queue: one for one in model.standing(ACME)}["llm"]
        assert (acme.cause, acme.concurrency) == ("concurrency", 1)
        assert acme.expected_s == pytest.approx(acme.oldest_s)
        with closing(operations.connect(module_database.url)) as broker:
            broker.set_limit("llm", key=ACME, concurrency=0)
            assert {one.queue: one for one in model.standing(ACME)}["llm"].cause == "paused"
            broker.set_limit("llm", key=ACME, concurrency=1)
            broker.pause("llm")
            halted = {one.queue: one for one in model.standing(ACME)}["llm"]
            assert (halted.cause, halted.expected_s) == ("queue", None), "no wait is promised while its queue is paused"
            assert "paused the queue" in means(halted, "your")
            broker.resume("llm")
            waiting = halted.waiting.number
            (one, *_) = waiting_ids(module_database.url)
            broker.cancel(one)
            assert {one.queue: one for one in model.standing(ACME)}["llm"].waiting.number == waiting - 1


def waiting_ids(url: str) -> list[str]:
    found = rows(url, f"SELECT task_id FROM kombu_message WHERE visible AND flow_key = hashtextextended('{ACME}', 0)")  # noqa: S608
    return [str(one) for (one,) in found]


def test_rates_are_written_as_people_say_them() -> None:
    found = [rate(one) for one in (5.0, 2.5, 100 / 60, 0.5, 1 / 60, 10 / 3600, 0.0, 1e6, 1e-5)]
    assert found == [
        *("5 a second", "150 a minute", "100 a minute", "30 a minute", "1 a minute", "10 an hour"),
        *("0 an hour", "1,000,000 a second", "0.036 an hour"),
    ]
