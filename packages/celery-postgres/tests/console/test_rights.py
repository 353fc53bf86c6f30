"""Who may see what: every view with every key."""

from __future__ import annotations

import re
from typing import Any

import pytest

from celery_postgres.console import Viewer
from celery_postgres.console.views import VIEWS
from celery_postgres.readmodel import ReadModel
from environment.testkit import night
from environment.testkit.console import Console, serving

STAFF = ("reader", "operator", "operator+payloads")
TENANTS = ("tenant A", "tenant B")
#: What each view answers to staff and to a tenant. A view that is missing here fails the test.
EXPECTED = {
    "": (200, 303),
    "queues": (200, 404),
    "queue?name=llm": (200, 404),
    "tasks": (200, 200),
    "task?id=": (404, 404),
    "dead": (200, 200),
    "workers": (200, 404),
    "schedules": (200, 404),
    "find?q=llm": (303, 303),
    "limits": (200, 200),
    "limit": (404, 404),
    "actions": (200, 404),
    "act": (404, 404),
}


def test_every_view_with_every_key(served: Console) -> None:
    assert {path.partition("?")[0] for path in EXPECTED} == {view.path for view in VIEWS}
    for path, (staff, tenant) in EXPECTED.items():
        assert {who: served.get(f"/{path}", who).status for who in STAFF} == dict.fromkeys(STAFF, staff), path
        assert {who: served.get(f"/{path}", who).status for who in TENANTS} == dict.fromkeys(TENANTS, tenant), path
        assert served.get(f"/{path}", None).status == 401


def test_without_a_key_every_address_is_the_door(served: Console) -> None:
    for path in ("/", "/queues", "/task?id=x", "/there-is-nothing-here", "/task?id=" + served.night.ids["failed"]):
        answer = served.get(path, None)
        assert answer.status == 401
        assert "Sign in with a key" in answer.text
        assert "llm" not in answer.text


def test_the_task_of_another_tenant_is_not_there(served: Console) -> None:
    ids = served.night.ids
    for own, others in (("tenant A", ("dead", "waiting")), ("tenant B", ("failed", "expired"))):
        for kind in others:
            hidden, missing = served.get(f"/task?id={ids[kind]}", own), served.get("/task?id=no-such-task", own)
            assert hidden.status == missing.status == 404
            assert hidden.text == missing.text
            assert served.get(f"/find?q={ids[kind][:12]}", own).headers["location"].startswith("/tasks?")
            assert ids[kind] not in served.get("/tasks", own).text
    assert served.get(f"/task?id={ids['failed']}", "tenant A").status == 200
    assert served.get(f"/task?id={ids['dead']}", "tenant B").status == 200


def test_a_tenant_sees_its_own_dead_letters_alone(served: Console) -> None:
    of_a, of_b = served.get("/dead", "tenant A").text, served.get("/dead", "tenant B").text
    assert "Expired before it ran" in of_a
    assert "failed 3 times" not in of_a
    assert "failed 3 times" in of_b
    assert "Expired before it ran" not in of_b
    assert str(night.BOREALIS) not in of_a
    # A filter narrows what is its own, and widens nothing.
    assert served.get(f"/dead?tenant={night.BOREALIS}", "tenant A").text.count("failed 3 times") == 0


@pytest.mark.parametrize("who", [*STAFF, "tenant A"])
def test_an_error_message_is_shown_on_no_page_that_one_looks_at(served: Console, who: str) -> None:
    text = served.get(f"/task?id={served.night.ids['failed']}", who).text
    assert "ProviderTimeoutError" in text
    assert night.SECRET not in text, "a look shows no values; showing them is an action, which is recorded"
    assert ("Show values" in text) is (who == "operator+payloads")
    assert ("app/tasks/llm.py:118" in text) is (who != "tenant A")
    assert night.SECRET not in served.get("/tasks?state=failed", who).text


def test_a_view_shows_names_of_views_that_the_viewer_has(served: Console) -> None:
    names = {who: re.findall(r'data-key="(\w)"', served.get("/tasks", who).text) for who in ("reader", "tenant A")}
    assert names == {"reader": ["o", "q", "t", "d", "w", "l", "s"], "tenant A": ["t", "d", "l"]}


def test_a_revoked_key_ends_its_sessions(module_database: Any, served: Console) -> None:
    with serving(module_database.url, served.night) as other:
        assert other.get("/tasks", "tenant B").status == 200
        other.tenant_keys.revoked.add("tenant B")
        assert other.get("/tasks", "tenant B").status == 401


def test_a_tenant_has_an_id_and_nobody_else_does() -> None:
    with pytest.raises(ValueError, match="names its tenant"):
        Viewer("tenant", "x", "k")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names its tenant"):
        Viewer("reader", "x", "k", tenant=night.ACME)  # type: ignore[arg-type]


def test_a_console_whose_login_only_looks_offers_no_action(
    served: Console, module_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a dry run, whose last step would be refused."""
    failed = f"/task?id={served.night.ids['failed']}"
    paths = ("/queue?name=llm", failed, "/dead", "/workers", "/schedules", "/limits")
    assert any("/act?" in served.get(path, "operator+payloads").text for path in paths)
    monkeypatch.setattr(ReadModel, "may_act", lambda model: False)
    with serving(module_database.url, served.night) as other:
        for path in paths:
            page = other.get(path, "operator+payloads").text
            assert "This console only looks: to act, its login needs the rights of the role celery_operator." in page
            assert "/act?" not in page
            assert "celery_operator" not in other.get(path, "reader").text
        plan = other.get("/act?do=pause&queue=llm", "operator")
        assert (plan.status, "celery_operator" in plan.text) == (404, True)
        token = other.get("/", "operator").text.partition('name="token" value="')[2].partition('"')[0]
        act = {"do": "pause", "queue": "llm", "token": token}
        answer = other.request("POST", "/act", act, Cookie=other.cookie("operator"))
        assert (answer.status, "celery_operator" in answer.text) == (404, True)
