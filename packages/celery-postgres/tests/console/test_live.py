"""Live pages: the events about a page, the page as all get it who follow it, and what a browser makes of them."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest

from celery_postgres.console import live, sharing
from celery_postgres.console.views import VIEWS
from celery_postgres.readmodel import observing
from environment.testkit import night
from environment.testkit.browser import Browser
from environment.testkit.console import DEADLINE_S, Console, enter, serving, staff_keys
from environment.waiting import wait_until


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are read ten times a second, so that no test waits for the next reading."""
    monkeypatch.setattr(sharing, "FRESH_S", 0.1)
    monkeypatch.setattr(observing, "FRESH_S", 0.1)


class Stream:
    """One tab's stream."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def next(self) -> dict[str, Any]:
        """The next event; empty at the end of the stream."""
        for line in self._response:
            if line.startswith(b"data: "):
                found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                return found
        return {}

    def until(self, state: str, unlike: str | None = None) -> dict[str, Any]:
        """The next event with this state, and another page than this one."""
        while True:
            event = self.next()
            assert event, "the stream has ended"
            if event["state"] == state and event.get("page", "") != unlike:
                return event


@contextmanager
def streaming(served: Console, of: str, who: str = "operator") -> Iterator[Stream]:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)) as connection:
        connection.request("GET", f"/events?of={quote(of, safe='')}", headers={"Cookie": served.cookie(who)})
        response = connection.getresponse()
        assert (response.status, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        yield Stream(response)


def streams_have_ended(served: Console) -> None:
    """The server notices a while after a tab that it is gone: until then its places are taken, and its pages read."""
    wait_until(lambda: not served.application.state.live.tabs, DEADLINE_S, "the places of closed streams")


def fresh(served: Console, of: str, who: str | None = "operator") -> Any:
    return served.get(f"/fresh?of={quote(of, safe='')}", who)


def change(url: str, statement: str, *values: Any) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values)


def publish(url: str, name: str, queue: str = "mail") -> None:
    """A waiting task of this name."""
    identity = night.task_id(name)
    insert = "INSERT INTO kombu_message (queue_id, payload, task_id) SELECT id, %s, %s FROM kombu_queue WHERE name = %s"
    change(url, insert, night.message(name, queue, identity), identity, queue)


def test_a_stream_tells_of_changes(served: Console) -> None:
    with streaming(served, "tasks?queue=mail") as tab:
        first = tab.until("ok")
        assert fresh(served, "tasks?queue=mail").headers["x-page"] == first["page"]
        publish(served.database_url, "mail.later")
        event, page = first, fresh(served, "tasks?queue=mail")
        while night.task_id("mail.later") not in page.text:
            event = tab.until("ok", unlike=event["page"])
            page = fresh(served, "tasks?queue=mail")
        assert event["at"] > first["at"]


def test_fifty_tabs_are_read_as_one(served: Console) -> None:
    """Each tab hears of several readings and asks for its page each time; the database is read once a second."""
    of, pages = "queues?tabs=fifty", served.application.state.live
    streams_have_ended(served)
    with ExitStack() as stack:
        begun, before = time.monotonic(), pages.readings
        tabs = [stack.enter_context(streaming(served, of)) for _ in range(50)]
        for _ in range(3):
            for tab in tabs:
                assert tab.until("ok")
                assert fresh(served, of).status == 200
        assert pages.readings - before <= (time.monotonic() - begun) / sharing.FRESH_S + 1


def test_who_follows_a_page_is_who_sees_it(served: Console) -> None:
    """Every view with every key: what is followed answers as the page itself does."""
    ids = served.night.ids
    for view in VIEWS:
        of = f"{view.path}?id={ids['failed']}&name=mail&q=mail&do=revoke"
        for who in served.keys:
            page, followed = page_and_followed(served, of, who)
            if not view.live or page.status == 303:
                assert followed.status == 404, (view.path, who)
            else:
                assert followed.status == page.status, (view.path, who)
                assert_content_is_the_same(page.text, followed.text)
            if followed.status == 200:
                assert 'name="token"' not in followed.text
        for path in ("fresh", "events"):
            assert served.get(f"/{path}?of={quote(of, safe='')}", None).status == 401
    for of in ("nothing", "static/console.js", "../queues", "/queues", "x" * 6_000, "tasks?" + "&".join(["a=b"] * 60)):
        assert fresh(served, of).status == 404
    assert served.get("/fresh").status == 200, "an empty path is the overview"


def page_and_followed(served: Console, of: str, who: str) -> tuple[Any, Any]:
    """Both of one minute: with the next one every chart moves on. What is shared may be a moment old."""
    while True:
        oldest = time.time() - 1
        pages = served.get(f"/{of}", who), fresh(served, of, who)
        if oldest // 60 == time.time() // 60:
            return pages


def assert_content_is_the_same(page: str, followed: str) -> None:
    """But for ages, which go on, and for the tokens of forms, which are one session's."""
    changing = r'([0-9.,]+ (ms|s|min|h|d)\b ?)+|<input type="hidden" name="token"[^>]*>'
    shown = [re.sub(changing, "", one.partition("<main")[2]) for one in (page, followed)]
    assert shown[0].partition("</main>")[0] == shown[1].partition("</main>")[0]


def test_a_stream_ends_with_its_key(served: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RECHECK_S", 0.0)
    with streaming(served, "tasks", "tenant A") as tab:
        assert tab.until("ok")
        served.tenant_keys.revoked.add("tenant A")
        try:
            assert tab.until("ended")
            assert tab.next() == {}
            assert fresh(served, "tasks", "tenant A").status == 401
        finally:
            served.tenant_keys.revoked.clear()


def test_streams_have_a_limit(served: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_OF_TENANT", 1)
    refused = f"/events?of={quote('tasks', safe='')}"
    streams_have_ended(served)
    with streaming(served, "tasks", "tenant A") as tab:
        assert tab.until("ok")
        answer = served.get(refused, "tenant A")
        assert (answer.status, answer.headers["retry-after"]) == (429, "10")
        with streaming(served, "tasks", "tenant B"):
            pass
    streams_have_ended(served)
    with streaming(served, "tasks", "tenant A") as tab:
        assert tab.until("ok")


def test_a_stream_tells_of_each_of_its_pages(served: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    of = ("tasks", "nothing", "tasks?state=failed", "dead")
    asked = "&".join(f"of={quote(one, safe='')}" for one in of)
    monkeypatch.setattr(live, "MOST_OF_TENANT", 2)
    streams_have_ended(served)
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)) as connection:
        connection.request("GET", f"/events?{asked}", headers={"Cookie": served.cookie("tenant A")})
        stream = Stream(connection.getresponse())
        states = {one["of"]: one["state"] for one in (stream.next() for _ in of)}
        assert {states["tasks"], states["tasks?state=failed"]} <= {"", "ok"}
        assert (states["nothing"], states["dead"]) == ("gone", "asks"), "there is room for two"
    streams_have_ended(served)


def live_text(browser: Browser) -> str:
    return str(browser.value("document.querySelector('.live').innerText"))


def test_a_page_follows_what_changes(served: Console, browser: Browser) -> None:
    """New content appears in the page that is there: focus, selection and what was typed stay."""
    url = served.database_url
    enter(browser, served, "operator")
    browser.open(f"{served.address}/queue?name=mail")
    browser.until("document.querySelector('[data-said]').innerText.startsWith('Live')")
    browser.value("window.same = true; document.getElementById('find').focus()")
    browser.type("half a wo")
    publish(url, "mail.first")
    browser.until("document.querySelector('main').innerText.includes('mail.first')")
    assert browser.value("window.same && document.activeElement.id") == "find"
    assert browser.value("document.activeElement.value") == "half a wo"
    row = f"main a[href*='{night.task_id('mail.first')}']"
    browser.value(f'window.row = document.querySelector("{row}"); row.focus()')
    publish(url, "mail.second")
    browser.until("document.querySelector('main').innerText.includes('mail.second')")
    assert browser.value("row.isConnected && document.activeElement === row")
    change(url, "DELETE FROM kombu_message WHERE payload LIKE %s", f"%{night.task_id('mail.first')}%")
    publish(url, "mail.third")
    browser.until("document.querySelector('main').innerText.includes('mail.third')")
    assert browser.value("row.isConnected && document.activeElement === row"), "it stays while the reader is there"
    browser.value("row.blur()")
    browser.until("!row.isConnected")
    assert browser.errors == []


def test_new_rows_do_not_push_a_list_down(served: Console, browser: Browser) -> None:
    url = served.database_url
    enter(browser, served, "operator")
    publish(url, "push.one", "celery")
    browser.open(f"{served.address}/tasks?queue=celery&q=push&state=waiting")
    browser.until("document.querySelector('[data-said]').innerText.startsWith('Live')")
    publish(url, "push.two", "celery")
    publish(url, "push.three", "celery")
    browser.until("document.querySelector('#unseen')?.innerText === '2 new, show'")
    assert browser.value("document.querySelectorAll('main tbody tr').length") == 1
    browser.value("document.querySelector('#unseen button').click()")
    browser.until("document.querySelectorAll('main tbody tr').length === 3")
    assert browser.value("document.querySelector('#unseen')") is None
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=".", text=".")
    browser.until("document.querySelector('[data-said]').innerText.startsWith('Paused at')")
    streams_have_ended(served)
    publish(url, "push.four", "celery")
    browser.value("document.querySelector('[data-do=pause]').click()")
    browser.until("document.querySelector('#unseen')?.innerText === '1 new, show'")
    assert browser.errors == []


def the_leader(browser: Browser, windows: list[str]) -> str:
    """The one window that follows the stream: the first, unless it stood still for 4 s, as on a busy machine."""

    def leading() -> list[str]:
        found = []
        for window in windows:
            browser.turn(window)
            if browser.value("live.leads !== null"):
                found.append(window)
        return found if len(found) == 1 else []

    return wait_until(leading, DEADLINE_S, "one window to lead")[0]


def test_one_stream_is_for_all_windows_of_a_browser(served: Console, browser: Browser) -> None:
    """Eight windows, and six connections to a host over HTTP/1.1. Another window takes over from the first."""
    url, pages = served.database_url, served.application.state.live
    enter(browser, served, "operator")
    browser.call("Page.navigate", url="about:blank")
    shown = ("queue?name=mail", "queues", "", "tasks", "dead", "workers", "schedules", "queue?name=celery")
    with browser.windows(len(shown)) as windows:
        for of, window in zip(shown, windows, strict=True):
            browser.turn(window)
            browser.open(f"{served.address}/{of}")
            browser.until("document.querySelector('[data-said]').innerText.startsWith('Live')")
        wait_until(lambda: pages.tabs == len(shown), DEADLINE_S, "one stream of all pages")
        the_leader(browser, windows)  # the others have asked for no stream
        browser.turn(windows[0])
        browser.value("document.querySelector('[data-do=pause]').click()")
        browser.turn(windows[-1])
        publish(url, "windows.one", "celery")
        browser.until("document.querySelector('main').innerText.includes('windows.one')")
        wait_until(lambda: pages.tabs == len(shown) - 1, DEADLINE_S, "the end of what is paused")
        publish(url, "windows.two", "mail")
        browser.turn(windows[0])
        browser.value("document.querySelector('[data-do=pause]').click()")
        browser.until("document.querySelector('main').innerText.includes('windows.two')")
        for window in windows:
            browser.turn(window)
            browser.until("document.querySelector('[data-said]').innerText.startsWith('Live')")
    assert browser.errors == []


def test_another_window_reads_while_the_one_that_read_stands_still(served: Console, browser: Browser) -> None:
    url, pages = served.database_url, served.application.state.live
    enter(browser, served, "operator")
    browser.call("Page.navigate", url="about:blank")
    streams_have_ended(served)
    with browser.windows(3) as windows:
        for window in windows:
            browser.turn(window)
            browser.open(f"{served.address}/queue?name=mail")
            browser.until("document.querySelector('[data-said]').innerText.startsWith('Live')")
        still = the_leader(browser, windows)
        browser.turn(still)
        browser.call("Debugger.enable")
        browser.call("Debugger.pause")  # it stands still at its next second
        others = [one for one in windows if one != still]
        the_leader(browser, others)
        publish(url, "still.one")
        for window in others:
            browser.turn(window)
            browser.until("document.querySelector('main').innerText.includes('still.one')")
            browser.until("document.querySelector('[data-said]').innerText.startsWith('Live')")
        browser.turn(still)
        browser.call("Debugger.resume")
        browser.until("document.querySelector('main').innerText.includes('still.one')")
        browser.until("live.leads === null")
        publish(url, "still.two")
        for window in windows:
            browser.turn(window)
            browser.until("document.querySelector('main').innerText.includes('still.two')")
        the_leader(browser, windows)
        wait_until(lambda: pages.tabs == 1, DEADLINE_S, "one stream again")
    assert browser.errors == []


#: Counts how often a window takes the stream from another.
COUNTED = (
    "const queued = queue; window.taken = 0; queue = (stop, steal) => { taken += steal || 0; queued(stop, steal) }"
)


def test_windows_do_not_take_the_stream_from_each_other_when_the_server_is_gone(
    module_database: Any, served: Console, browser: Browser
) -> None:
    with serving(module_database.url, served.night) as first, browser.windows(2) as windows:
        enter(browser, first, "operator")
        for window in windows:
            browser.turn(window)
            browser.open(f"{first.address}/queues")
            browser.until("document.querySelector('[data-said]').innerText.startsWith('Live')")
            browser.value(COUNTED)
        first.close()
        for window in windows:
            browser.turn(window)
            browser.until("document.querySelector('[data-said]').innerText.startsWith('Not live since')")
            browser.until("live.leads !== null || live.missed < 2")
            assert browser.value("taken") == 0
    browser.errors.clear()


def test_a_lost_stream_is_told_and_taken_up_again(module_database: Any, served: Console, browser: Browser) -> None:
    """The console stops and starts again, at first with another secret, and then the session ends."""
    staff, same = staff_keys(), "s" * 32
    with serving(module_database.url, served.night, staff=staff, secret=same) as first:
        enter(browser, first, "operator")
        browser.open(f"{first.address}/queues")
        browser.until("document.querySelector('[data-said]').innerText.startsWith('Live')")
        port, cookie = first.port, first.cookie("operator")
    browser.value("live.heard = 0")  # as if 5 s had gone by
    browser.until("document.querySelector('[data-said]').innerText.startsWith('Not live since')")
    assert "trying again" in live_text(browser)
    browser.errors.clear()
    with serving(module_database.url, served.night, port=port, staff=staff, secret=same) as second:
        assert second.get("/queues", None, Cookie=cookie).status == 200
        browser.until("document.querySelector('[data-said]').innerText.startsWith('Live')")
    with serving(module_database.url, served.night, port=port, staff=staff, secret="o" * 32):
        browser.until("document.querySelector('[data-said]').innerText.startsWith('Your session has ended')")
        assert "Sign in" in live_text(browser)
        assert browser.value("document.querySelector('main h1').innerText") == "Queues", "the page stays readable"
