"""Actions: each says first what it would do, does exactly that, and only for those who may."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from celery_postgres import operations
from celery_postgres.console.acting import at_of
from celery_postgres.console.actions import letters as letters_of_a_group
from celery_postgres.errors import SchemaError
from environment.testkit import night
from environment.testkit.browser import Browser
from environment.testkit.console import DEADLINE_S, Answer, Console, enter
from environment.testkit.databases import run
from environment.testkit.tables import rows, scalar
from environment.waiting import wait_until

GROUP = {"reason": "rejected", "task": "webhooks.deliver", "queue": "webhooks"}
ALL = {
    "pause": {"queue": "mail"},
    "resume": {"queue": "reports"},
    "requeue": GROUP,
    "discard": GROUP,
    "block": {"name": "a.task"},
    "unblock": {"name": "a.task"},
    "drain-worker": {"id": "1"},
    "forget-worker": {"id": "77"},
    "run-now": {"name": "nightly-report"},
    "disable": {"name": "nightly-report"},
    "enable": {"name": "weekly-digest"},
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
    assert "1,200 of 1,200 dead letters are deleted." in done.text
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


def recorded(url: str) -> dict[str, object]:
    """What the last action left on record."""
    names = ("source", "actor", "action", "subject", "planned", "done", "outcome", "ended_at IS NOT NULL")
    (row,) = rows(url, f"SELECT {', '.join(names)} FROM console_action ORDER BY id DESC LIMIT 1")  # noqa: S608
    return dict(zip((*names[:-1], "ended"), row, strict=True))


def test_each_action_is_on_record_and_in_what_changed(served: Console) -> None:
    url = served.database_url
    confirm(served, plan(served, "pause", queue="mail").text)
    assert recorded(url) == {
        **{"source": "console", "actor": "operator", "action": "pause", "subject": "mail", "planned": 1, "done": 1},
        **{"outcome": "Queue mail is paused.", "ended": True},
    }
    did, by = "operator paused mail", "by <bdi>operator</bdi>"
    # The overview is read once a second.
    shown = {"/": did, "/actions": did, "/queues": by, "/queue?name=mail": by}
    for path, text in shown.items():
        for who in ("reader", "operator"):
            wait_until(lambda path=path, who=who, text=text: text in served.get(path, who).text, DEADLINE_S, path)
    confirm(served, plan(served, "resume", queue="mail").text)
    assert by not in served.get("/queue?name=mail", "reader").text
    count = scalar(url, "SELECT count(*) FROM console_action")
    plan(served, "pause", queue="mail")
    assert scalar(url, "SELECT count(*) FROM console_action") == count, "a dry run is none"


def test_without_a_record_nothing_is_done(served: Console) -> None:
    url = served.database_url
    asked = plan(served, "block", name="not.recorded")
    run(url, "ALTER TABLE console_action RENAME TO elsewhere")
    try:
        assert confirm(served, asked.text).status == 503
    finally:
        run(url, "ALTER TABLE elsewhere RENAME TO console_action")
    assert scalar(url, "SELECT count(*) FROM kombu_stopped_task WHERE name = 'not.recorded'") == 0


def test_values_are_shown_to_those_with_the_right_and_each_reading_is_recorded(served: Console) -> None:
    url, about = served.database_url, {"do": "read", "id": served.night.ids["failed"]}
    who = "operator+payloads"
    for other in ("reader", "operator", "tenant A"):
        form = about | {"token": _token(served, other)}
        assert served.request("POST", "/act", form, Cookie=served.cookie(other)).status == 404
        assert plan(served, "read", other, id=about["id"]).status == 404
    before = scalar(url, "SELECT count(*) FROM console_action")
    assert night.SECRET not in plan(served, "read", who, id=about["id"]).text
    assert scalar(url, "SELECT count(*) FROM console_action") == before
    shown = served.request("POST", "/act", about | {"token": _token(served, who)}, Cookie=served.cookie(who))
    assert shown.status == 200
    assert night.SECRET in shown.text
    last = recorded(url)
    assert (last["actor"], last["action"], last["subject"], last["ended"]) == (
        *("operator-payloads", "read", about["id"], True),
    )
    assert night.SECRET not in str(rows(url, "SELECT * FROM console_action"))
    assert f"saw the values of {about['id']}" in served.get("/actions", "reader").text
    waiting = about | {"id": served.night.ids["waiting"], "token": _token(served, who)}
    assert "Arguments" in served.request("POST", "/act", waiting, Cookie=served.cookie(who)).text


def test_many_letters_go_in_parts_that_only_their_beginner_goes_on_with(
    served: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = served.database_url
    monkeypatch.setattr(letters_of_a_group, "BATCH", 10)
    monkeypatch.setattr(letters_of_a_group, "PART_S", 0.0)
    run(
        url,
        "INSERT INTO kombu_dead_letter (message_id, failures, queue, task_id, reason, payload)"
        " SELECT n, 0, CASE WHEN n % 5 = 0 THEN 'gone' ELSE 'webhooks' END, 'parts', 'parts',"
        ' \'{"body": "", "headers": {"task": "in.parts"}, "properties": {}}\''
        " FROM generate_series(1, 25) AS n",
    )
    left = "SELECT count(*) FROM kombu_dead_letter WHERE reason = 'parts'"
    part = confirm(served, plan(served, "requeue", reason="parts", task="in.parts").text)
    assert "8 of 25" in part.text
    last = recorded(url)
    assert (last["planned"], last["done"], last["ended"]) == (25, 8, False)
    assert "Not ended: 8 of 25" in served.get("/actions", "reader").text
    form = fields(part.text)
    stolen = {"run": form["run"], "after": form["after"], "token": _token(served, "operator+payloads")}
    assert served.request("POST", "/act", stolen, Cookie=served.cookie("operator+payloads")).status == 404
    for wrong in ({"run": "0"}, {"run": "x"}, {"after": "x"}, {"run": "9" * 30}):
        assert confirm(served, part.text, **wrong).status == 404, wrong
    assert scalar(url, left) == 17
    # What a form says it is about is not what counts, but what was begun.
    second = confirm(served, part.text, do="discard", reason="rejected")
    assert "16 of 25" in second.text
    done = confirm(served, second.text)
    assert "20 of 25 dead letters are in their queues again." in done.text
    assert (scalar(url, left), recorded(url)["done"], recorded(url)["ended"]) == (5, 20, True)
    assert confirm(served, second.text).status == 404, "it has ended"

    again = confirm(served, plan(served, "discard", reason="parts", task="in.parts", queue="gone").text)
    assert "5 of 5 dead letters are deleted." in again.text


def test_an_action_in_parts_can_be_stopped(served: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    url = served.database_url
    monkeypatch.setattr(letters_of_a_group, "BATCH", 2)
    monkeypatch.setattr(letters_of_a_group, "PART_S", 0.0)
    run(
        url,
        "INSERT INTO kombu_dead_letter (message_id, failures, reason, payload)"
        " SELECT n, 0, 'stopping', '{}' FROM generate_series(1, 6) AS n",
    )
    part = confirm(served, plan(served, "discard", reason="stopping").text)
    stopped = confirm(served, part.text, stop="1")
    assert "Stopped after 2 of 6." in stopped.text
    assert scalar(url, "SELECT count(*) FROM kombu_dead_letter WHERE reason = 'stopping'") == 4
    assert recorded(url)["outcome"] == "Stopped after 2 of 6."
    assert confirm(served, part.text).status == 404


def test_blocking_and_unblocking_a_task(served: Console) -> None:
    name, waiting = "app.tasks.llm.explanation", served.night.ids["waiting"]
    blocked = f"SELECT count(*) FROM kombu_stopped_task WHERE name = '{name}'"  # noqa: S608
    asked = plan(served, "block", name=name)
    assert "1,000+" in asked.text
    assert "of this name wait now" in asked.text
    confirm(served, asked.text)
    assert scalar(served.database_url, blocked) == 1
    assert "It is blocked already." in plan(served, "block", name=name).text
    wait_until(lambda: "do=unblock" in served.get("/", "operator").text, DEADLINE_S, "the overview to list it")
    page = served.get(f"/task?id={waiting}", "operator").text
    assert "do=unblock" in page
    assert "do=block" not in page
    assert "tasks of this name are blocked" in page
    assert "blocked by an operator" in served.get(f"/tasks?state=waiting&q={name}", "operator").text
    confirm(served, plan(served, "unblock", name=name).text)
    assert scalar(served.database_url, blocked) == 0
    assert "It is not blocked." in plan(served, "unblock", name=name).text
    assert "do=unblock" not in served.get(f"/task?id={waiting}", "operator").text


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


def test_parts_go_on_by_themselves_in_a_browser(
    served: Console, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_of_a_group, "BATCH", 2)
    monkeypatch.setattr(letters_of_a_group, "PART_S", 0.0)
    run(
        served.database_url,
        "INSERT INTO kombu_dead_letter (message_id, failures, reason, payload)"
        " SELECT n, 0, 'by itself', '{}' FROM generate_series(1, 4) AS n",
    )
    enter(browser, served, "operator")
    browser.open(f"{served.address}/act?do=discard&reason=by+itself&task=")
    browser.value("document.querySelector('.confirm button').click()")
    browser.until("document.title.startsWith('Done')")
    assert scalar(served.database_url, "SELECT count(*) FROM kombu_dead_letter WHERE reason = 'by itself'") == 0


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
