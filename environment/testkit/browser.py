"""Headless Chromium through its own protocol, over a pipe: only the browser has to be installed."""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from environment.waiting import wait_until

DEADLINE_S = 60

_ON_3_AND_4 = """\
import fcntl, os, sys
both = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, descriptor in zip((3, 4), both):
    os.dup2(descriptor, number)
    os.close(descriptor)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """Pages in a browser of its own, with a fresh profile: one, and those of more windows."""

    def __init__(self, program: str, profile: Path) -> None:
        # Chromium reads commands from descriptor 3 and answers on 4.
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _ON_3_AND_4,
                str(commands),
                str(answers),
                program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                # It must not connect to any other host than the page's.
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-quic",
                "--disable-sync",
                "--window-size=1440,800",
                f"--user-data-dir={profile}",
                "--remote-debugging-pipe",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[commands, answers],
        )
        os.close(commands)
        os.close(answers)
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        #: The requests of the page: method, URL.
        self.requests: list[tuple[str, str]] = []
        #: The errors in its console.
        self.errors: list[str] = []
        try:
            self._window()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def windows(self, count: int) -> Iterator[list[str]]:
        """Open more windows, which `turn` takes, and close them at the end."""
        first, opened = self._session, [self._window() for _ in range(count)]
        try:
            yield opened
        finally:
            for window in opened:
                self.turn(window)
                self.call("Page.close")
            self._session = first

    def _window(self) -> str:
        """Open a window and turn to it."""
        self._session = None
        target = self.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        session: str = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.turn(session)
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return session

    def turn(self, window: str) -> None:
        """Turn to a window: all else is about this one."""
        self._session = window

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command; return its answer."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + DEADLINE_S
        while True:
            answer = self._read(end - time.monotonic())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript; return its value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self) -> str:
        """Return the text of the page."""
        return str(self.value("document.body.innerText"))

    def until(self, expression: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until a JavaScript expression is true."""
        wait_until(lambda: self.value(expression), deadline_s, expression, interval_s=0.05)

    def press(self, key: str) -> None:
        """Press a key of the keyboard: Tab, Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        more = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Type into the focused element."""
        self.call("Input.insertText", text=text)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            readable, _, _ = select.select([self._answers], [], [], max(seconds, 0))
            assert readable, "the browser does not answer"
            chunk = os.read(self._answers, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        content: dict[str, Any] = json.loads(message)
        return content

    def _note(self, message: dict[str, Any]) -> None:
        what = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append((what["request"]["method"], what["request"]["url"]))
        elif message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(what))
        elif message.get("method") == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.errors.append(what["entry"]["text"])
