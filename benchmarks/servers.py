"""The servers of a run: PostgreSQL as it is run in production, and Redis.  Loopback only, gone afterwards."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.processes import dies_with_us
from environment.temporary import TemporaryCluster
from environment.waiting import wait_until

#: Nothing that a commit promises is switched off.  A gigabyte of messages must not force a checkpoint into a
#: measurement that takes seconds.
POSTGRES = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "max_connections": "100",
    "log_line_prefix": "%d|%p|%a|",
    "log_checkpoints": "off",
}

#: The most generous settings for Redis: nothing is written to disk at all.
REDIS = {"save": "", "appendonly": "no"}


def postgres(major: int) -> TemporaryCluster:
    """A context manager: a fresh PostgreSQL that is durable."""
    cluster = TemporaryCluster(major, tcp=True)
    cluster.options = dict(POSTGRES)
    return cluster


class Redis:
    """A context manager: a fresh Redis on a port of its own.

    :param settings: in redis.conf's words.
    :ivar url: how Celery reaches it.
    """

    def __init__(self, settings: Mapping[str, str] = REDIS) -> None:
        self._settings = settings
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = Path(tempfile.mkdtemp(prefix="bench-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_available() -> bool:
        """Whether the server and its Python client are installed."""
        return importlib.util.find_spec("redis") is not None and shutil.which("redis-server") is not None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def version(self) -> str:
        """What it calls itself."""
        shown = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
        return shown.stdout.split("v=")[1].split()[0]

    def start(self) -> None:
        """Start it, on what it has written, and return when it answers."""
        words = [word for name, value in self._settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dies_with_us(),
        )
        wait_until(self._answers, 10, "Redis to answer")

    def kill(self) -> None:
        """``kill -9``."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            if self._process.returncode is None:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False
