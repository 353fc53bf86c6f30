"""The page at /: with a browser, and without a script."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest

from app.http.page import Table, _page
from environment.testkit.browser import Browser
from environment.testkit.databases import run
from tests.http.front import A, Answer, B, Front

COUNT_TIMERS = """
    var timers = 0;
    const original = window.setTimeout;
    window.setTimeout = (...given) => { timers += 1; return original(...given); };
"""
HOLD_THE_FIRST_ANSWER = """
    var release, keys = [];
    const ask = window.fetch;
    window.fetch = async (url, options) => {
        keys.push(options.body.get("key"));
        const first = keys.length === 1;
        const answer = await ask(url, options);
        if (first) await new Promise((resolve) => { release = resolve; });
        return answer;
    };
"""
NOTE_WHAT_IS_SHOWN = """
    var seen = "";
    new MutationObserver(() => { seen += live.innerText; }).observe(live, { childList: true });
"""
TEXT = "document.getElementById({!r}).innerText"


@pytest.fixture
def browser(tmp_path: Path, program: Callable[[str], str]) -> Iterator[Browser]:
    with Browser(program("chromium"), tmp_path / "profile") as browser:
        yield browser


def enter(front: Front, key: str) -> Answer:
    """The form, sent by a browser without scripts."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return front.request("POST", "/", urlencode({"key": key}).encode(), tenant=None, headers=headers)


# -- without a script


def test_before_a_key_is_entered_nothing_is_told(front: Front) -> None:
    answer = front.get("/", tenant=None)
    page = answer.body.decode()
    assert answer.status == 200
    assert "<table" not in page
    assert '<label for="key">' in page
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_with_a_key_there_are_queues_and_the_tenants_tasks(front: Front) -> None:
    mine, other = front.submit().json["task_id"], front.submit(tenant=B).json["task_id"]
    answer = enter(front, front.key(A))
    page = answer.body.decode()
    assert answer.status == 200
    assert mine in page
    assert other not in page
    assert re.search(r'<th scope="row">celery</th><td>[1-9]\d*</td><td>0</td><td>0</td><td>\d+\.\d s</td>', page)
    assert "… PENDING" in page
    assert front.key(A) not in page


@pytest.mark.parametrize("key", ["", "nonsense", "<script>alert(1)</script>", "sk_" + "0" * 32 + "_" + "A" * 43])
def test_a_wrong_key_shows_nothing_and_is_not_repeated(front: Front, key: str) -> None:
    answer = enter(front, key)
    page = answer.body.decode()
    assert answer.status == 401
    assert "<table" not in page
    assert "not valid" in page
    assert not key or key not in page


def test_a_form_that_is_none_of_ours_has_no_key(front: Front) -> None:
    form = urlencode({"key": front.key(A), **{str(number): "x" for number in range(5)}}).encode()
    answer = front.request("POST", "/", form, tenant=None)
    assert answer.status == 401
    assert answer.headers["content-type"].startswith("text/html")


def test_what_the_page_loads_is_its_own(front: Front) -> None:
    page = front.get("/", tenant=None).body.decode()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert loaded == ["data:,", "/page/page.css", "/page/page.js"]
    for path in loaded[1:]:
        assert front.get(path, tenant=None).status == 200
    assert front.get("/page/__init__.py", tenant=None).status == 404
    assert len(re.findall("<script", page)) == 1


def test_what_others_have_named_is_text() -> None:
    hostile = '<script>alert("x")</script>&\''
    page = bytes(_page(200, [Table("queues", hostile, [hostile], [[hostile, hostile]])], hostile).body).decode()
    assert len(re.findall("<script", page)) == 1, "its own"
    assert page.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;&#39;") == 5


# -- with a browser


def test_the_keyboard_is_enough_and_the_page_lives(front: Front, browser: Browser, start_module_worker: Any) -> None:
    tenant = UUID(int=0xD)
    front.key(tenant)
    browser.open(f"http://127.0.0.1:{front.port}/")
    browser.press("Tab")
    assert browser.value("document.activeElement.id") == "key"
    browser.type(front.key(tenant))
    browser.press("Enter")
    browser.until("document.getElementById('tasks') !== null")
    assert "None." in browser.value(TEXT.format("tasks"))

    task_id = front.submit(tenant=tenant).json["task_id"]
    browser.until(f"{TEXT.format('tasks')}.includes({task_id!r})")
    assert "PENDING" in browser.value(TEXT.format("tasks"))
    worker = start_module_worker(front.database_url)
    browser.until(f"{TEXT.format('tasks')}.includes('✓ SUCCESS')")
    browser.until(f"{TEXT.format('workers')}.includes('({worker.pid})')")
    assert browser.value("document.activeElement.id") == "key", "the focus stays where it was"

    assert browser.errors == []
    addresses = {url for _, url in browser.requests}
    assert all(url.startswith((f"http://127.0.0.1:{front.port}/", "data:")) for url in addresses), addresses
    assert not [url for url in addresses if "sk_" in url]
    assert browser.value("document.cookie + localStorage.length + sessionStorage.length + location.search") == "00"


def test_a_key_that_is_revoked_empties_the_page(front: Front, browser: Browser) -> None:
    tenant = UUID(int=0xE)
    front.key(tenant)
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=COUNT_TIMERS)
    browser.open(f"http://127.0.0.1:{front.port}/")
    browser.press("Tab")
    browser.type(front.key(tenant))
    browser.press("Enter")
    browser.until("document.getElementById('queues') !== null")
    run(
        front.database_url,
        f"SELECT set_config('app.current_tenant_id', '{tenant}', false)",
        "UPDATE api_key SET revoked_at = now()",
    )
    browser.until("document.getElementById('queues') === null")
    assert "not valid" in browser.value(TEXT.format("note"))
    # After every answer but this one it has set a timer for the next question.
    posts = [method for method, _ in browser.requests].count("POST")
    assert browser.value("timers") == posts - 1


def test_another_key_takes_the_place_of_the_one_before(front: Front, browser: Browser) -> None:
    mine, other = front.submit(tenant=A).json["task_id"], front.submit(tenant=B).json["task_id"]
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=HOLD_THE_FIRST_ANSWER)
    browser.open(f"http://127.0.0.1:{front.port}/")
    browser.press("Tab")
    browser.type(front.key(A))
    browser.press("Enter")
    browser.until("release !== undefined")
    browser.value("document.getElementById('key').select()")
    browser.type(front.key(B))
    browser.press("Enter")
    browser.until(f"live.innerText.includes({other!r})")
    browser.value(NOTE_WHAT_IS_SHOWN)
    browser.value("release()")
    browser.until(f"seen.includes({other!r}) && keys.filter((key) => key === {front.key(B)!r}).length === 3")
    assert browser.value("keys").count(front.key(A)) == 1
    assert mine not in browser.value("seen")


def test_it_can_be_read_on_a_small_screen_and_without_colour(front: Front, browser: Browser) -> None:
    browser.call("Emulation.setEmulatedVisionDeficiency", type="achromatopsia")
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=True)
    browser.open(f"http://127.0.0.1:{front.port}/")
    assert browser.value("document.documentElement.scrollWidth <= 360")
    styles = (front.get("/page/page.css", tenant=None).body.decode(), front.get("/", tenant=None).body.decode())
    # No colour of our own: the browser's, light or dark, which its users can set.
    assert not re.search(r"(?<!-)\b(?:background|color|border-color)\s*:|#[0-9a-f]{3,6}\b(?!-)[;, ]", styles[0])
