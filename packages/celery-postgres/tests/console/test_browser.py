"""The console in a browser: by keyboard, without its script, narrow and wide, dark and light."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from celery_postgres.console.actions import letters
from environment.testkit import night
from environment.testkit.browser import Browser
from environment.testkit.console import DEADLINE_S, Console, enter
from environment.testkit.databases import run
from environment.testkit.machine import unavailable
from environment.waiting import wait_until

#: Where .ci/programs puts it.
AXE = Path("/usr/local/share/axe-core/axe.min.js")
#: Of the rules, those of WCAG 2.2 AA and what axe calls best practice.
RUN = (
    "axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify(found.violations.map(one => "
    "[one.id, one.nodes.map(node => node.target.join(' ') + ': ' + node.failureSummary).slice(0, 3)])))"
)
SIZES = [(width, theme) for width in (1280, 500, 390) for theme in ("light", "dark")]
NARROWEST = 320
HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


def views(served: Console) -> list[str]:
    ids = served.night.ids
    return [
        *(
            "/",
            "/?span=week",
            "/queues",
            "/queue?name=mail&span=day",
            "/queue?name=reports",
            "/tasks?q=nothing",
            "/tasks?state=running",
            "/workers",
            "/schedules",
        ),
        "/dead?queue=webhooks&reason=rejected&task=webhooks.deliver",
        *(f"/task?id={ids[kind]}" for kind in ("failed", "waiting", "dead")),
        "/tasks?tenant=wrong",
        "/act?do=pause&queue=mail",
        "/act?do=resume&queue=mail",
        f"/task?id={night.task_id('canvas explain')}",
        "/act?do=run-now&name=nightly-report",
        "/limits",
        f"/limits?key={night.ACME}&queue=llm",
        f"/limit?queue=llm&key={night.ACME}",
        "/act?do=limit&queue=llm&key=*&concurrency=3&per_minute=90",
        "/actions",
        "/nothing",
    ]


def shape(browser: Browser, width: int, theme: str = "light") -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.call("Emulation.setEmulatedMedia", features=features)


def press(browser: Browser, key: str) -> None:
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key)


def arrive(browser: Browser, condition: str) -> None:
    """Wait for a page and its script."""
    browser.until(f"document.readyState === 'complete' && {condition}")


@pytest.fixture(scope="module", autouse=True)
def _more(module_database: Any, served: Console) -> None:
    night.limit(module_database.url)
    night.canvas(module_database.url)


@pytest.fixture
def axe() -> str:
    if not AXE.exists():
        unavailable("axe-core is not installed: .ci/programs does it")
    return AXE.read_text()


@pytest.fixture
def answers(served: Console, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The pages that answer an action and have no address: values, a part of a large action, its end, a refusal."""
    monkeypatch.setattr(letters, "BATCH", 2)
    monkeypatch.setattr(letters, "PART_S", 0.0)
    run(
        served.database_url,
        "INSERT INTO kombu_dead_letter (message_id, failures, reason, payload)"
        " SELECT n, 0, 'in parts', '{}' FROM generate_series(1, 4) AS n",
    )
    failed = served.night.ids["failed"]
    values = _act(served, "operator+payloads", served.get(f"/act?do=read&id={failed}", "operator+payloads").text)
    part = _act(served, "operator", served.get("/act?do=discard&reason=in+parts&task=", "operator").text)
    again = _act(served, "operator", part)
    pages = {
        "values": values,
        "a part": part,
        "its end": _act(served, "operator", again),
        "gone": _act(served, "operator", part),
    }
    assert [bool(re.search(said, text)) for said, text in zip(
        ("its values|Its values", "2 of 4", "4 of 4 dead letters are deleted", "ended"), pages.values(), strict=True
    )] == [True] * 4  # fmt: skip
    # By its script a part would go on.
    return {name: text.replace(" data-go>", ">") for name, text in pages.items()}


def _act(served: Console, who: str, page: str) -> str:
    """Press the button of a page's form."""
    form = page.partition('action="/act"')[2]
    fields = {name: html.unescape(value) for name, value in HIDDEN.findall(form)}
    return served.request("POST", "/act", fields, Cookie=served.cookie(who)).text


def everywhere(served: Console, browser: Browser, answers: dict[str, str]) -> Iterator[str]:
    """Bring the browser to each page in turn, and to a page that has followed a change."""
    for path in views(served):
        browser.open(served.address + path)
        assert browser.value("document.title").startswith("The page failed") is False, path
        yield path
    frame = browser.call("Page.getFrameTree")["frameTree"]["frame"]["id"]
    for name, text in answers.items():
        browser.open(served.address + "/queues")
        browser.call("Page.setDocumentContent", frameId=frame, html=text)
        title = json.dumps(html.unescape(text.partition("<title>")[2].partition("</title>")[0]))
        styled = "document.readyState === 'complete' && getComputedStyle(document.body).margin === '0px'"
        browser.until(f"document.title === {title} && {styled}")
        yield name
    browser.open(served.address + "/queue?name=webhooks")
    paused = "UPDATE kombu_queue SET paused = {} WHERE name = 'webhooks'"
    run(served.database_url, paused.format("true"))
    try:
        browser.until("document.querySelector('main').innerText.includes('Workers claim nothing from it')")
        yield "a page that has followed a change"
    finally:
        run(served.database_url, paused.format("false"))
    browser.call("Network.clearBrowserCookies")
    browser.open(served.address + "/queues")
    yield "the door"


def examine(browser: Browser, axe: str) -> Any:
    """What axe finds on the page that is open."""
    browser.value(axe + "; 0")
    return json.loads(browser.value(RUN))


def test_axe_finds_nothing(served: Console, browser: Browser, axe: str, answers: dict[str, str]) -> None:
    """Each page once: wide and light, or narrow and dark in turn. The long test below has each in every shape."""
    enter(browser, served, "operator")
    found, shapes = {}, cycle((SIZES[-1], SIZES[0]))
    for path in everywhere(served, browser, answers):
        shape(browser, *next(shapes))
        found[path] = examine(browser, axe)
    assert {path: violations for path, violations in found.items() if violations} == {}


@pytest.mark.long
@pytest.mark.parametrize(("width", "theme"), SIZES)
def test_axe_finds_nothing_in_any_shape(
    served: Console, browser: Browser, axe: str, answers: dict[str, str], width: int, theme: str
) -> None:
    shape(browser, width, theme)
    enter(browser, served, "operator")
    found = {path: examine(browser, axe) for path in everywhere(served, browser, answers)}
    assert {path: violations for path, violations in found.items() if violations} == {}


def test_nothing_scrolls_sideways_on_the_narrowest_screen(
    served: Console, browser: Browser, answers: dict[str, str]
) -> None:
    shape(browser, NARROWEST)
    enter(browser, served, "operator")
    widths = {
        path: browser.value("document.documentElement.scrollWidth") for path in everywhere(served, browser, answers)
    }
    assert set(widths.values()) == {NARROWEST}, widths


def test_from_the_door_to_the_reason_by_keyboard_on_a_phone(served: Console, browser: Browser) -> None:
    """A newcomer with a failed task: sign in, filter, open the task, read why."""
    shape(browser, 390)
    browser.call("Network.clearBrowserCookies")
    browser.requests.clear()
    browser.errors.clear()
    browser.open(served.address + "/")
    assert browser.value("document.activeElement.id") == "key"
    browser.type(served.keys["reader"])
    browser.press("Enter")
    arrive(browser, "document.title.startsWith('Overview')")
    press(browser, "g")
    press(browser, "t")
    arrive(browser, "document.title.startsWith('Tasks')")
    browser.value("[...document.querySelectorAll('.tabs a')].find(one => one.innerText === 'Failed').focus()")
    browser.press("Enter")
    arrive(browser, "location.search === '?state=failed'")
    press(browser, "j")
    assert browser.value("document.activeElement.closest('tr') !== null")
    browser.press("Enter")
    arrive(browser, "location.pathname === '/task'")
    shown = browser.text()
    assert "ProviderTimeoutError" in shown
    assert "app/tasks/llm.py:118" in shown
    assert night.SECRET not in shown
    press(browser, "/")
    assert browser.value("document.activeElement.id") == "find"
    browser.type("llm")
    browser.press("Enter")
    arrive(browser, "location.pathname === '/queue'")
    browser.value("document.querySelector('form[action$=sign-out] button').focus()")
    browser.press("Enter")
    browser.until("document.title.startsWith('Sign in')")
    # The door answers 401, which Chromium reports as a failed load.
    assert [error for error in browser.errors if "401" not in error] == []
    addresses = {url for _, url in browser.requests}
    assert all(url.startswith((served.address + "/", "data:")) for url in addresses), addresses
    assert not [url for url in addresses if served.keys["reader"] in url]
    kept = browser.value("JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])")
    assert json.loads(kept) == ["", {}, {}]


def test_every_page_is_complete_without_its_script(served: Console, browser: Browser) -> None:
    shape(browser, 1280)
    enter(browser, served, "operator")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=f"{served.address}/tasks?state=failed")
        text = _text_without_script(browser, "Failed")
        assert "UTC" in text
        assert "Sign out" in text
        assert "Theme" not in text, "what only the script can do is not offered"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_times_are_in_the_readers_zone_and_in_utc_on_demand(served: Console, browser: Browser) -> None:
    shape(browser, 1280)
    enter(browser, served, "operator")
    browser.call("Emulation.setTimezoneOverride", timezoneId="Asia/Kathmandu")
    browser.open(f"{served.address}/task?id={served.night.ids['failed']}")
    shown = "document.querySelector('.events time').innerText"
    local = browser.value(shown)
    assert browser.value("document.querySelector('[data-zone]').innerText") in ("Asia/Kathmandu", "Asia/Katmandu")
    browser.value("document.querySelector('[data-do=zone]').click()")
    assert browser.value(shown) != local
    browser.value("document.querySelector('[data-do=theme]').click()")
    theme = browser.value("document.documentElement.dataset.theme")
    browser.open(f"{served.address}/queues")
    assert browser.value("document.querySelector('[data-zone]').innerText") == "UTC"
    assert browser.value("document.documentElement.dataset.theme") == theme
    press(browser, "?")
    browser.until("document.getElementById('keys').open")
    browser.value("document.querySelector('[data-do=keys]').click(); document.getElementById('keys').close()")
    press(browser, "g")
    press(browser, "t")
    press(browser, "?")
    assert browser.value("document.getElementById('keys').open") is False, "the keys are switched off"
    browser.value("localStorage.clear()")
    browser.call("Emulation.setTimezoneOverride", timezoneId="")


def _text_without_script(browser: Browser, part: str) -> str:
    """The page's text by its accessibility tree, which needs no script."""
    found = ""

    def read() -> bool:
        nonlocal found
        nodes: list[Any] = browser.call("Accessibility.getFullAXTree")["nodes"]
        found = " ".join(str(node.get("name", {}).get("value", "")) for node in nodes)
        return part in found

    wait_until(read, DEADLINE_S, "the page without its script")
    return found
