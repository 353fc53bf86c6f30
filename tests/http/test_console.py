"""The console of the front: its tenants and their keys, and those of readers and operators."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest

from app import keys as keys_tool
from app.core.settings import Settings
from app.db import api_keys
from app.db.engine import build_engine
from celery_postgres import console
from environment.testkit.browser import Browser
from tests.http.front import A, Answer, B, Front

OPERATOR, LINE = console.new_key("operator", "on-call")
VIEWS = ("", "queues", "queue?name=celery", "tasks", "dead", "workers", "find?q=celery")


@pytest.fixture(scope="module")
def front(module_database: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The web process of this module, with a key of an operator."""
    made = Front(module_database.url, tmp_path_factory.mktemp("front"), {"WEB_CONSOLE_KEYS": LINE})
    try:
        yield made.start()
    finally:
        made.close()


def sign_in(front: Front, key: str, then: str = "/") -> Answer:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    form = urlencode({"key": key, "next": then}).encode()
    return front.request("POST", "/console/sign-in", form, tenant=None, headers=headers)


def cookie(front: Front, key: str) -> str:
    answer = sign_in(front, key)
    assert answer.status == 303, answer
    return answer.headers["set-cookie"].partition(";")[0]


def look(front: Front, path: str, session: str) -> Answer:
    return front.get(f"/console/{path}", tenant=None, headers={"Cookie": session})


def act(front: Front, session: str, form: dict[str, str]) -> Answer:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": session}
    return front.request("POST", "/console/act", urlencode(form).encode(), tenant=None, headers=headers)


def test_the_front_page_leads_to_the_console(front: Front) -> None:
    for path in ("/", "/console"):
        answer = front.get(path, tenant=None)
        assert (answer.status, answer.headers["location"]) == (303, "/console/")
    door = front.get("/console/", tenant=None)
    assert door.status == 401
    assert "./dev keys issue" in door.body.decode()
    assert "default-src 'none'" in door.headers["content-security-policy"]
    assert "unsafe" not in door.headers["content-security-policy"]
    assert door.headers["x-correlation-id"]


def test_a_tenants_key_shows_its_own_tasks(front: Front) -> None:
    mine, others = front.submit().json["task_id"], front.submit(tenant=B).json["task_id"]
    session = cookie(front, front.key(A))
    listed = look(front, "tasks", session).body.decode()
    assert mine in listed
    assert others not in listed
    assert re.search(r"s-waiting.*Waiting", listed)
    assert look(front, f"task?id={mine}", session).status == 200
    hidden, missing = look(front, f"task?id={others}", session), look(front, "task?id=nothing", session)
    assert hidden.status == missing.status == 404
    assert hidden.body == missing.body
    assert mine in look(front, "tasks?state=waiting", session).body.decode()
    assert mine not in look(front, "tasks?state=failed", session).body.decode()
    for path in ("queues", "queue?name=celery", "workers"):
        assert look(front, path, session).status == 404
    assert front.key(A) not in listed


def test_a_tenant_revokes_its_own_task_and_no_other(front: Front) -> None:
    mine, others = front.submit().json["task_id"], front.submit(tenant=B).json["task_id"]
    session = cookie(front, front.key(A))
    for task_id, status in ((others, 404), ("nothing", 404), (mine, 200)):
        plan = look(front, f"act?do=revoke&id={task_id}", session)
        assert plan.status == status
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', plan.body.decode()))
    assert form["id"] == mine
    for task_id, token, status in ((others, form["token"], 404), (mine, "0" * 64, 400), (mine, form["token"], 200)):
        answer = act(front, session, form | {"id": task_id, "token": token})
        assert answer.status == status
    assert "The task is revoked." in answer.body.decode()
    assert "s-revoked" in look(front, f"task?id={mine}", session).body.decode()
    assert "s-waiting" in look(front, f"task?id={others}", cookie(front, front.key(B))).body.decode()


def test_operators_see_what_tenants_revoked_and_tenants_do_not(front: Front) -> None:
    mine = front.submit().json["task_id"]
    assert front.request("DELETE", f"/v1/tasks/{mine}").status == 202
    operators = cookie(front, OPERATOR)
    assert f"test of tenant {A} revoked {mine}" in look(front, "actions", operators).body.decode()
    assert f"revoked {mine}" not in look(front, "", operators).body.decode(), "it changes nothing for others"
    for tenant in (A, B):
        assert look(front, "actions", cookie(front, front.key(tenant))).status == 404


@pytest.mark.parametrize("do", ["pause", "resume", "requeue", "discard", "block", "unblock", "", "revoke"])
def test_nothing_of_another_tenant_is_on_any_address(front: Front, do: str) -> None:
    others = front.submit(tenant=B).json["task_id"]
    session = cookie(front, front.key(A))
    about = f"id={others}&q={others}&queue=celery&name=celery&tenant={B}&worker=1"
    for path in ("", "queues", "queue", "tasks", "task", "dead", "workers", "find", f"act?do={do}", "nothing"):
        answer = look(front, f"{path}{'&' if '?' in path else '?'}{about}", session)
        assert answer.status in (200, 303, 404), path
        assert answer.body.decode().replace(about.replace("&", "&amp;"), "").count(others) <= 2, path
        assert f"task?id={others}" not in answer.body.decode(), path


def test_an_operators_key_shows_all(front: Front) -> None:
    mine, others = front.submit().json["task_id"], front.submit(tenant=B).json["task_id"]
    session = cookie(front, OPERATOR)
    assert {path: look(front, path, session).status for path in VIEWS[:-1]} == dict.fromkeys(VIEWS[:-1], 200)
    listed = look(front, "tasks?state=waiting", session).body.decode()
    assert mine in listed
    assert others in listed
    # No key of the console opens the API.
    assert front.get("/v1/tasks", tenant=None, headers={"Authorization": f"Bearer {OPERATOR}"}).status == 401


def test_pages_of_a_tenants_tasks_show_each_once(front: Front) -> None:
    tenant = UUID(int=0xF)
    submitted = {front.submit(tenant=tenant).json["task_id"] for _ in range(60)}
    session, path, found = cookie(front, front.key(tenant)), "tasks", []
    while path:
        page = look(front, path, session).body.decode()
        found += re.findall(r'href="/console/task\?id=([^"]+)"', page)
        older = re.search(r'class="btn" href="/console/(tasks\?[^"]+)" rel="next"', page)
        path = older[1].replace("&amp;", "&") if older else ""
    assert len(found) == 60
    assert set(found) == submitted
    assert look(front, "tasks?before=nothing", session).status == 404


@pytest.mark.parametrize("key", ["", "nonsense", "<script>alert(1)</script>", "sk_" + "0" * 32 + "_" + "A" * 43])
def test_a_wrong_key_shows_nothing_and_is_not_repeated(front: Front, key: str) -> None:
    answer = sign_in(front, key)
    assert answer.status == 401
    assert "not valid" in answer.body.decode()
    assert not key or key not in answer.body.decode()


def test_a_revoked_key_ends_its_sessions(front: Front) -> None:
    tenant = UUID(int=0xE)
    session = cookie(front, front.key(tenant))
    assert look(front, "tasks", session).status == 200
    engine = build_engine(Settings(database_url=front.database_url))
    with engine.begin() as connection:
        api_keys.revoke(connection, UUID(front.key(tenant).split("_")[1]))
    engine.dispose()
    assert look(front, "tasks", session).status == 401


def test_nothing_secret_is_in_the_log(front: Front) -> None:
    session = cookie(front, OPERATOR)
    look(front, "tasks?q=s3cret-text", session)
    log = front.log_text()
    for secret in (OPERATOR, session.partition("=")[2], "s3cret-text", LINE.split()[2]):
        assert secret not in log


def test_a_line_that_is_no_key_ends_the_start_in_one_line(module_database: Any, tmp_path: Path) -> None:
    wrong = Front(module_database.url, tmp_path, {"WEB_CONSOLE_KEYS": "operator hunter2"})
    try:
        with pytest.raises(AssertionError):
            wrong.open()
        assert "WEB_CONSOLE_KEYS: key 1 of the console is not" in wrong.log_text()
        assert "hunter2" not in wrong.log_text()
    finally:
        wrong.close()


def test_the_tool_prints_a_key_and_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert keys_tool.main(["console", "reader", "support"]) == 0
    key, line = capsys.readouterr().out.splitlines()
    viewer = console.ConfiguredKeys([line]).enter(key)
    assert viewer is not None
    assert viewer.role is console.Role.READER
    assert keys_tool.main(["console", "admin", "support"]) == 1
    assert "a `reader`" in capsys.readouterr().err


def test_a_tenant_signs_in_with_the_keyboard(
    front: Front, program: Callable[[str], str], tmp_path: Path, start_module_worker: Any
) -> None:
    task_id = front.submit().json["task_id"]
    with Browser(program("chromium"), tmp_path / "profile") as browser:
        browser.open(f"{front.address}/")
        assert browser.value("document.activeElement.id") == "key"
        browser.type(front.key(A))
        browser.press("Enter")
        browser.until("document.title.startsWith('Your tasks')")
        browser.until(f"document.body.innerHTML.includes({task_id!r})")
        start_module_worker(front.database_url)
        front.ended(task_id)
        browser.open(f"{front.address}/console/task?id={task_id}")
        browser.until("document.body.innerText.includes('Succeeded')")
        kept = browser.value("document.cookie + localStorage.length + sessionStorage.length")
        assert kept == "00"
        assert not [url for _, url in browser.requests if "sk_" in url]
        addresses = {url for _, url in browser.requests}
        assert all(url.startswith((f"{front.address}/", "data:")) for url in addresses), addresses
