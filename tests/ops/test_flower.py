"""Flower, unmodified, on our broker: what its pages show in a browser, and to whom."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from app.core.dsn import PostgresDSN
from environment import client
from environment.errors import UserError
from environment.ports import listening
from environment.sources import CHECKOUT
from environment.testkit.browser import Browser
from environment.waiting import wait_until

pytestmark = pytest.mark.xdist_group("flower")

OBSERVED = CHECKOUT / "tests/observability"
DEADLINE_S = 60
HTML = "document.documentElement.outerHTML"


@dataclass(frozen=True)
class Flower:
    """`./dev flower` on a database with one worker.

    Attributes:
        name: the worker's.
        tasks: ids by what became of them.
    """

    port: int
    log: Path
    name: str
    database_url: str
    tasks: dict[str, str]

    @property
    def url(self) -> str:
        """Of its pages; no slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def status(self, path: str, data: bytes | None = None) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@pytest.fixture(scope="module")
def flower(module_database: Any, start_module_worker: Any, program: Callable[[str], str]) -> Iterator[Flower]:
    if importlib.util.find_spec("flower") is None:
        pytest.skip("flower is not installed: it is an optional extra")
    url = module_database.tcp_url or module_database.url
    path = {"PYTHONPATH": str(OBSERVED)}
    worker = start_module_worker(url, args=["-I", "observed_tasks", "-E"], env=path)
    name = worker.command[worker.command.index("-n") + 1]
    # Which is free on loopback: Flower takes no 0.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with TemporaryDirectory(prefix="skeldir-flower-") as folder:
        Path(folder).chmod(0o755)  # the account that runs PostgreSQL for root must enter it
        log = Path(folder) / "log"
        # Addresses that the command is not to take.
        command = [CHECKOUT / "dev", "flower", f"--port={port}", "--address=0.0.0.0"]
        variables = {"DATABASE_URL": url, "SKELDIR_STATE_DIR": folder, "SKELDIR_PYTHON": sys.executable}
        variables["FLOWER_UNIX_SOCKET"] = f"{folder}/socket"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env={**os.environ, **variables}, stdout=output, stderr=subprocess.STDOUT
            )
        made = Flower(port, log, name, url, {})
        try:
            wait_until(lambda: made.status("/healthcheck") == 200 or process.poll() is not None, DEADLINE_S, "Flower")
            assert process.poll() is None, log.read_text()
            made.tasks.update(run_tasks(url, made))
            yield made
        finally:
            process.terminate()
            process.wait(30)


def run_tasks(url: str, flower: Flower) -> dict[str, str]:
    """Two that succeed and one that fails, after Flower heard of the worker: it knows only what it was told."""
    from app.celery_app import celery_app, create_app
    from app.core.settings import Settings

    wait_until(lambda: flower.status(f"/worker/{flower.name}") == 200, DEADLINE_S, "Flower to know the worker")
    app = create_app(Settings(database_url=url, _env_file=None))
    try:
        sent = {what: app.send_task(f"observed.{what}", args=["shown"]) for what in ("returns", "fails", "retries")}
        for answer in sent.values():
            answer.get(timeout=DEADLINE_S, propagate=False)
        return {what: answer.id for what, answer in sent.items()}
    finally:
        app.close()
        celery_app.set_current()


@pytest.fixture(scope="module")
def browser(
    flower: Flower, program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    with Browser(program("chromium"), tmp_path_factory.mktemp("browser")) as made:
        yield made


def table(browser: Browser, selector: str) -> list[list[str]]:
    """The texts of a table's body."""
    rows = json.dumps(f"{selector} tbody tr")
    found: list[list[str]] = browser.value(
        f"[...document.querySelectorAll({rows})]"
        ".map(row => [...row.cells].map(cell => cell.innerText.replaceAll('\\n', '').trim()))"
    )
    return found


def details(browser: Browser) -> dict[str, str]:
    """The texts of a page's description lists."""
    found: dict[str, str] = browser.value(
        "Object.fromEntries([...document.querySelectorAll('dt')]"
        ".map(term => [term.textContent.trim(), term.nextElementSibling.textContent.trim()]))"
    )
    return found


def shows(browser: Browser, flower: Flower, path: str, expected: Callable[[], Any], what: str) -> Any:
    """Load a page again and again until something is on it: events take a moment."""

    def look() -> Any:
        browser.open(flower.url + path)
        return expected()

    return wait_until(look, DEADLINE_S, f"{what} on {path}", interval_s=0.5)


def test_the_workers_page_counts_what_the_worker_did(browser: Browser, flower: Flower) -> None:
    # Active, received (the retry twice), failed, succeeded.
    truth = [flower.name, "Online", "0", "4", "1", "2"]
    shows(
        browser, flower, "/workers", lambda: [row[:6] for row in table(browser, "#workers-table")] == [truth], "truth"
    )


def test_the_worker_page_knows_its_pool_and_its_queue(browser: Browser, flower: Flower) -> None:
    """What it shows was asked of the worker through the broker."""
    # The tables of other tabs are on the page, and not to be seen.
    queues = "[...document.querySelectorAll('#tab-queues tbody tr')].map(row => row.cells[0].textContent.trim())"

    def knows() -> bool:
        return "solo:TaskPool" in browser.text() and browser.value(queues) == ["celery"]

    shows(browser, flower, f"/worker/{flower.name}", knows, "the pool and the queue")


def test_the_tasks_page_lists_each_task_with_what_became_of_it(browser: Browser, flower: Flower) -> None:
    truth = {
        (f"observed.{what}", flower.tasks[what], state)
        for what, state in (("returns", "SUCCESS"), ("fails", "FAILURE"), ("retries", "SUCCESS"))
    }

    def listed() -> bool:
        # The table comes after the page.
        return {tuple(row[:3]) for row in table(browser, "#tasks-table") if len(row) > 3} == truth

    browser.open(f"{flower.url}/tasks")
    wait_until(listed, DEADLINE_S, "the tasks to be listed", interval_s=0.5)


def test_the_task_page_tells_of_one(browser: Browser, flower: Flower) -> None:
    def ended(state: str) -> dict[str, str]:
        shown = details(browser)
        return shown if shown.get("Status") == state else {}

    shown = shows(browser, flower, f"/task/{flower.tasks['returns']}", lambda: ended("SUCCESS"), "its success")
    assert shown["Name"] == "observed.returns"
    assert shown["Arguments"] == "['shown']"
    assert shown["Result"] == "'shown'"
    assert shown["Worker"] == flower.name
    shows(browser, flower, f"/task/{flower.tasks['fails']}", lambda: ended("FAILURE"), "its failure")
    assert "cannot use shown" in browser.text()


def test_the_broker_page_says_that_flower_does_not_know_this_broker(browser: Browser, flower: Flower) -> None:
    """It asks RabbitMQ's and Redis's own interfaces, and knows no others: `./dev queues` shows the queues."""
    browser.open(f"{flower.url}/broker")
    assert "'postgresql' broker is not supported" in browser.text()
    assert table(browser, "#queue-table") == []
    assert flower.status("/broker") == 404


def test_nobody_but_this_machine_reaches_it(flower: Flower) -> None:
    mine = {address for address in listening() if address.endswith(f":{flower.port}")}
    assert mine == {f"127.0.0.1:{flower.port}"}
    assert not (flower.log.parent / "socket").exists()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--unix_socket=/nowhere/socket", "on no socket file"),
        ("--unix-socket=/nowhere/socket", "on no socket file"),
        ("-unix_socket=/nowhere/socket", "on no socket file"),
        ("port=5555", "'port' is none"),  # after which no address would count, and it would listen on all
        ("--", "'--' is none"),
    ],
)
def test_what_would_let_others_in_is_refused(monkeypatch: pytest.MonkeyPatch, word: str, told: str) -> None:
    monkeypatch.setattr(client, "find_spec", lambda name: object())
    with pytest.raises(UserError, match=f"^./dev flower .*{re.escape(told)}"):
        client.flower(["--port=5555", word])


def test_it_changes_nothing(flower: Flower) -> None:
    refused = {
        flower.status(path, b"")
        for path in (
            f"/api/worker/shutdown/{flower.name}",
            f"/api/task/revoke/{flower.tasks['returns']}",
            "/api/task/async-apply/observed.returns",
        )
    }
    assert refused <= {401, 403}
    assert flower.status(f"/worker/{flower.name}") == 200


def test_no_page_and_no_line_shows_the_password(browser: Browser, flower: Flower) -> None:
    dsn = PostgresDSN.parse(flower.database_url)
    if dsn.password is None:
        pytest.skip("this server asks for no password")
    said = flower.log.read_text()
    assert f"sqla+postgresql://{dsn.user}" in said
    shown = f"/worker/{flower.name}"
    assert f"/{dsn.database}" in shows(browser, flower, shown, lambda: browser.value(HTML), "the broker")
    for path in ("/workers", shown, "/broker"):
        browser.open(flower.url + path)
        said += browser.value(HTML)
    # On our own server the role and its password have one name; as a password it stands behind a colon.
    assert f":{dsn.password}@" not in said


def test_without_the_extra_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="flower is not installed: it is an optional extra"):
        client.flower([])
