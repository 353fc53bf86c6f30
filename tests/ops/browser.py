"""A headless Chromium, driven through the WebDriver protocol (https://www.w3.org/TR/webdriver2/)."""

from __future__ import annotations

import base64
import http.client
import json
import re
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from environment.waiting import wait_until

#: It is to talk to nobody but the page, and root has no sandbox.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1440,800",
)


class Browser:
    """A context manager: inside, one tab.

    :param driver: chromedriver's path.
    :param chromium: the browser's.
    :param folder: an empty folder for its profile and its log.
    """

    def __init__(self, driver: str, chromium: str, folder: Path) -> None:
        self._driver, self._chromium, self._folder = driver, chromium, folder
        self._log = folder / "log"
        self._number, self._session = 0, ""

    def open(self, url: str) -> None:
        """Load a page."""
        self._post("/url", {"url": url})

    def run(self, script: str) -> Any:
        """What a function of this body returns in the page."""
        return self._post("/execute/sync", {"script": script, "args": []})

    def text(self) -> str:
        """What is to be read on the page."""
        return str(self.run("return document.body.innerText"))

    def table(self, selector: str) -> list[list[str]]:
        """The texts of a table's body."""
        found: list[list[str]] = self.run(
            f"return [...document.querySelectorAll({json.dumps(selector + ' tbody tr')})]"
            ".map(row => [...row.cells].map(cell => cell.innerText.replaceAll('\\n', '').trim()))"
        )
        return found

    def details(self) -> dict[str, str]:
        """The texts of a page's description lists."""
        found: dict[str, str] = self.run(
            "return Object.fromEntries([...document.querySelectorAll('dt')]"
            ".map(term => [term.textContent.trim(), term.nextElementSibling.textContent.trim()]))"
        )
        return found

    def screenshot(self) -> bytes:
        """The window, as PNG."""
        return base64.b64decode(self._ask("GET", f"{self._session}/screenshot"))

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([self._driver, "--port=0"], stdout=log, stderr=subprocess.STDOUT)
        try:
            self._number = int(wait_until(self._port, 30, "chromedriver to say its port"))
            options = {"binary": self._chromium, "args": [*FLAGS, f"--user-data-dir={self._folder / 'profile'}"]}
            made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
            self._session = f"/session/{made['sessionId']}"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("DELETE", self._session)
        finally:
            self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def _port(self) -> str | None:
        assert self._process.poll() is None, self._log.read_text()
        found = re.search(r"started successfully on port (\d+)", self._log.read_text())
        return found and found[1]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", self._session + path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", self._number, timeout=60)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            value = json.loads(answer.read())["value"]
        assert answer.status == 200, value
        return value
