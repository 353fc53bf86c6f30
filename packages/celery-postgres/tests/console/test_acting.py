"""Actions: each says first what it would do, does exactly that, and only for those who may."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from celery_postgres import operations
from celery_postgres.console.acting import at_of
from celery_postgres.errors import SchemaError
from environment.testkit.browser import Browser
from environment.testkit.console import Answer, Console, enter
from environment.testkit.databases import run
from environment.testkit.tables import rows, scalar

GROUP = {"reason": "rejected", "task": "webhooks.deliver", "queue": "webhooks"}
ALL = {
    "pause": {"queue": "mail"},
    "resume": {"queue": "reports"},
    "requeue": GROUP,
    "discard": GROUP,
    "block": {"name": "a.task"},
    "unblock": {"name": "a.task"},
}


def plan(served: Console, do: str, who: str = "operator", **about: str) -> Answer:
    return served.get(f"/act?{urlencode({'do': do, **about})}", who)


def fields(page: str) -> dict[str, str]:
    """The hidden fields of the plan's form."""
    form = page.partition('action="/act"')[2]
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form)
    return {name: value.replace("&#34;", '"').replace("&amp;", "&") for name, value in found}


def confirm(served: Console, page: str, who: str = "operator", **changed: str) -> Answer:
    return served.request("POST", "/act", fields(page) | changed, Cookie=served.cookie(who))


def letters(url: str) -> int:
    return int(scalar(url, "SELECT count(*) FROM kombu_dead_letter WHERE reason = 'rejected'"))


def test_pausing_and_resuming(served: Console) -> None:
    url, paused = served.database_url, "SELECT paused FROM kombu_queue WHERE name = 'mail'"
    asked = plan(served, "pause", queue="mail")
    assert "A dry run: nothing is changed yet." in asked.text
    assert scalar(url, paused) is False
    done = confirm(served, asked.text)
    assert (done.status, scalar(url, paused)) == (200, True)
    assert "Queue mail is paused." in done.text
    assert "It is paused already." in plan(served, "pause", queue="mail").text
    assert confirm(served, asked.text).status == 409, "the plan does not hold any more"
    assert "Resume…" in served.get("/queue?name=mail").text
    assert confirm(served, plan(served, "resume", queue="mail").text).status == 200
    assert scalar(url, paused) is False


def test_requeueing_a_group_leaves_later_letters_alone(served: Console) -> None:
    url = served.database_url
    before = scalar(url, "SELECT count(*) FROM kombu_message")
    asked = plan(served, "requeue", **GROUP)
    assert f"Requeue {letters(url)}" in asked.text
    assert scalar(url, "SELECT count(*) FROM kombu_message") == before, "a dry run"
    run(
        url,
        "INSERT INTO kombu_dead_letter (message_id, failures, queue, task_id, reason, payload)"
        " SELECT 1, 0, queue, 'later', reason, payload FROM kombu_dead_letter WHERE reason = 'rejected' LIMIT 1",
    )
    number = letters(url) - 1
    done = confirm(served, asked.text)
    assert f"{number} of {number} dead letters are in their queues again." in done.text
    assert rows(url, "SELECT task_id FROM kombu_dead_letter WHERE reason = 'rejected'") == [("later",)]
    assert scalar(url, "SELECT count(*) FROM kombu_message") == before + number


def test_a_large_number_has_to_be_typed(served: Console) -> None:
    url = served.database_url
    run(
        url,
        "INSERT INTO kombu_dead_letter (message_id, failures, queue, task_id, reason, payload)"
        " SELECT 1, 0, 'webhooks', 'many', 'many', '{\"task\": \"a.many\"}' FROM generate_series(1, 1200)",
    )
    about = {"reason": "many", "task": "a.many", "queue": "webhooks"}
    asked = plan(served, "discard", **about)
    assert "Type 1200 to confirm" in asked.text
    for number in ("", "12", "1199", "all"):
        refused = confirm(served, asked.text, number=number)
        assert refused.status == 422
        assert "This is not 1200. Nothing was done." in refused.text
    assert scalar(url, "SELECT count(*) FROM kombu_dead_letter WHERE reason = 'many'") == 1_200
    done = confirm(served, asked.text, number="1,200")
    assert "1,200 dead letters are deleted." in done.text
    assert scalar(url, "SELECT count(*) FROM kombu_dead_letter WHERE reason = 'many'") == 0


def test_a_tenant_revokes_its_own_waiting_task(served: Console) -> None:
    url, task_id = served.database_url, served.night.ids["waiting"]
    revoked = f"SELECT bool_or(revoked) FROM kombu_message WHERE task_id = '{task_id}'"  # noqa: S608
    assert plan(served, "revoke", "tenant A", id=task_id).status == 404, "not its own"
    asked = plan(served, "revoke", id=task_id)
    forged = fields(asked.text) | {"token": _token(served, "tenant A")}
    assert served.request("POST", "/act", forged, Cookie=served.cookie("tenant A")).status == 404
    assert scalar(url, revoked) is False
    own = served.night.ids["failed"]
    assert "only what waits can be revoked" in plan(served, "revoke", "tenant A", id=own).text
    assert "The task is revoked." in confirm(served, asked.text).text
    assert scalar(url, revoked) is True


def test_blocking_and_unblocking_a_task(served: Console) -> None:
    blocked = "SELECT count(*) FROM kombu_stopped_task WHERE name = 'a.task'"
    confirm(served, plan(served, "block", name="a.task").text)
    assert scalar(served.database_url, blocked) == 1
    confirm(served, plan(served, "unblock", name="a.task").text)
    assert scalar(served.database_url, blocked) == 0


@pytest.mark.parametrize("who", ["reader", "tenant A", "tenant B"])
def test_others_have_no_such_actions(served: Console, who: str) -> None:
    for do, about in ALL.items():
        assert plan(served, do, who, **about).status == 404
        form = {"do": do, **about, "token": _token(served, who)}
        assert served.request("POST", "/act", form, Cookie=served.cookie(who)).status == 404
    assert "/act?" not in served.get("/dead", who).text
    assert served.request("POST", "/act", {"do": "block", "name": "a.task"}).status == 401


def test_a_form_without_the_token_or_of_another_site_does_nothing(served: Console) -> None:
    asked = plan(served, "block", name="a.task")
    cookie = served.cookie("operator")
    assert confirm(served, asked.text, token="").status == 400
    assert confirm(served, asked.text, token=_token(served, "reader")).status == 400
    form = fields(asked.text)
    assert served.request("POST", "/act", form, Cookie=cookie, Sec_Fetch_Site="cross-site").status == 400
    assert served.request("GET", f"/act?{urlencode(form)}", Cookie=cookie).status == 200, "a plan, and nothing more"
    assert scalar(served.database_url, "SELECT count(*) FROM kombu_stopped_task") == 0


def test_a_condition_that_cannot_be_read_is_not_left_out(served: Console) -> None:
    for name in ("queue", "reason", "task"):
        assert plan(served, "discard", **GROUP | {name: "x" * 501}).status == 404
        assert plan(served, "discard", **GROUP | {name: "\0"}).status == 404
    assert plan(served, "nothing").status == 404


def test_what_the_login_may_not_do_is_told_and_not_done(served: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SchemaError("the role watcher may not do this")

    asked = plan(served, "block", name="a.task")
    monkeypatch.setattr(operations.Operations, "block_task", refuse)
    answer = confirm(served, asked.text)
    assert answer.status == 503
    assert "The console&#39;s login may not do this" in answer.text
    assert "The role watcher may not do this." in answer.text


def test_a_plans_time_is_never_in_the_future() -> None:
    for text in ("", "nonsense", "2999-01-01T00:00:00+00:00", "2026-01-01T00:00:00"):
        assert at_of(text).tzinfo is not None
        assert at_of(text) <= datetime.now(UTC)


def test_the_keyboard_pauses_a_queue(served: Console, browser: Browser) -> None:
    enter(browser, served, "operator")
    browser.open(f"{served.address}/queue?name=celery")
    browser.value("document.querySelector('.acts a').focus()")
    browser.press("Enter")
    browser.until("document.readyState === 'complete' && location.pathname === '/act'")
    browser.value("document.querySelector('.confirm button').focus()")
    browser.press("Enter")
    browser.until("document.title.startsWith('Done')")
    assert scalar(served.database_url, "SELECT paused FROM kombu_queue WHERE name = 'celery'") is True


def _token(served: Console, who: str) -> Any:
    return served.get("/tasks", who).text.partition('name="token" value="')[2].partition('"')[0]
