"""The application's web process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from environment.lifetime import Lifetime
from environment.sources import CHECKOUT
from environment.testkit import children
from environment.waiting import wait_until


class WebProcess(Lifetime):
    """A context manager: ``uvicorn app.main:app`` on a free port of 127.0.0.1, in a session of its own.

    Args:
        database_url: becomes DATABASE_URL.
        folder: for its log.
        environment: further variables.
    """

    def __init__(self, database_url: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.database_url = database_url
        self.log = folder / "web.log"
        self._environment = dict(environment or {})
        # Ours, so that no other process takes the port between two processes of one test.
        self._socket = socket.create_server(("127.0.0.1", 0))
        # uvicorn takes a socket that it is handed for one without Nagle's algorithm.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = int(self._socket.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its base URL; no slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def log_text(self) -> str:
        """What it has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def open(self) -> None:
        """Start it; return when it answers."""
        number = self._socket.fileno()
        with self.log.open("ab") as log:
            self.process = children.serve(
                [sys.executable, "-P", "-m", "uvicorn", "app.main:app", "--fd", str(number), "--no-access-log"],
                env=children.environment({**self._environment, "DATABASE_URL": self.database_url}),
                cwd=CHECKOUT,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[number],
            )

        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log_text()
            return "Application startup complete" in self.log_text()

        wait_until(answers, 90, "the web process")

    def kill(self) -> None:
        """Send SIGKILL to it and to its children."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Send TERM, and KILL 15 s later; return the exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def close(self) -> None:
        """Stop it and free the port."""
        self.stop()
        self._socket.close()
