"""Servers for one test or one run: PostgreSQL as durable as in production, Redis, RabbitMQ.  Loopback only."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from environment.cluster import free_port
from environment.lifetime import Lifetime
from environment.temporary import TemporaryCluster
from environment.testkit import measuring
from environment.testkit.children import end, serve
from environment.waiting import wait_until

#: Every promise of a commit holds.  A gigabyte of messages must not force a checkpoint into a measurement of seconds.
POSTGRES = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "max_connections": "500",  # a hundred workers
    "log_line_prefix": "%d|%p|%a|",
    "log_checkpoints": "off",
}

#: Redis at its fastest: nothing is written to disk.
REDIS = {"save": "", "appendonly": "no"}

#: Redis at its most durable: an answered command is on disk.
REDIS_ALWAYS = {"save": "", "appendonly": "yes", "appendfsync": "always"}

#: RabbitMQ's own program; Debian's /usr/sbin/rabbitmq-server changes the folder and the account.
_RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: The account that runs it where we are root.
_RABBITMQ_ACCOUNT = "rabbitmq"


def postgres(major: int) -> TemporaryCluster:
    """A context manager: a new PostgreSQL, as durable as in production, that listens on 127.0.0.1 too."""
    cluster = TemporaryCluster(major, tcp=True)
    cluster.options = dict(POSTGRES)
    return cluster


class Redis(Lifetime):
    """A context manager: a new Redis on a port of its own.

    Args:
        settings: as in its configuration file; by default nothing is written to disk.

    Attributes:
        url: how Celery reaches it.
    """

    def __init__(self, settings: Mapping[str, str] = REDIS) -> None:
        self.settings = settings
        self.port = free_port()
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
        """As it prints it."""
        shown = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
        return shown.stdout.split("v=")[1].split()[0]

    def start(self) -> None:
        """Start it on the files of its folder; return when it answers."""
        words = [word for name, value in self.settings.items() for word in (f"--{name}", value)]
        self._process = serve(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder), *words]
        )
        wait_until(lambda: _answers(self.port, b"PING\r\n"), 10, "Redis to answer")

    def kill(self) -> None:
        """``kill -9``."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    open = start

    def close(self) -> None:
        """Stop it and remove its files."""
        if self._process is not None:
            end(self._process, 10)
        shutil.rmtree(self._folder, ignore_errors=True)


class RabbitMQ(Lifetime):
    """A context manager: a new RabbitMQ, with an epmd, ports, a folder and a cookie of its own.

    Another RabbitMQ of this machine is not touched, nor its epmd.

    Attributes:
        port: of AMQP.
        url: how Celery reaches it.
    """

    def __init__(self) -> None:
        self.port, self._distribution, self._epmd_port = free_port(), free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._folder = Path(tempfile.mkdtemp(prefix="bench-rabbitmq-"))
        self._processes: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def is_available() -> bool:
        """Whether the server is installed, and what it needs."""
        return _rabbitmq() is not None and shutil.which("epmd") is not None

    @property
    def pids(self) -> list[int]:
        """The server and its epmd."""
        return [process.pid for process in self._processes]

    @property
    def version(self) -> str:
        """As it reports it to a client."""
        connection: Any = importlib.import_module("amqp").Connection(f"127.0.0.1:{self.port}")
        with connection:
            return str(connection.server_properties["version"])

    def open(self) -> None:
        """Start both; return when RabbitMQ answers."""
        self._write_files()
        # An epmd that RabbitMQ starts outlives it, and listens on the default port.
        self._start(["epmd", "-address", "127.0.0.1", "-port", str(self._epmd_port)])
        wait_until(lambda: _answers(self._epmd_port, b"\0\1n"), 10, "epmd to answer")
        # The last word is for erl: without it RabbitMQ would run below a shell, which a kill -9 leaves behind.
        self._start([str(_rabbitmq()), "-noinput"])
        wait_until(self._takes_connections, 60, "RabbitMQ to answer")

    def close(self) -> None:
        """Stop both, and remove their files."""
        # Its helpers have sessions of their own, and end when they notice that it has ended.
        helpers = measuring.tree(self.pids) - set(self.pids)
        for process in reversed(self._processes):
            end(process, 20)
        self._processes.clear()
        with suppress(TimeoutError):
            wait_until(lambda: not measuring.tree(list(helpers)), 5, "the helpers of RabbitMQ to go")
        for pid in helpers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write_files(self) -> None:
        files = {
            "rabbitmq.conf": f"listeners.tcp.local = 127.0.0.1:{self.port}\nlog.file.level = warning\n",
            "plugins": "[].\n",
            # Instead of /etc/rabbitmq/rabbitmq-env.conf.
            "env.conf": "",
            ".erlang.cookie": secrets.token_hex(16),
        }
        for name, content in files.items():
            (self._folder / name).write_text(content)
            # Erlang refuses a cookie that others could read.
            (self._folder / name).chmod(0o400)
        if (account := _account()) is not None:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)

    def _start(self, command: Sequence[str]) -> None:
        folder, account = self._folder, _account()
        variables = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": "bench@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        with (folder / "output").open("ab") as output:
            self._processes.append(
                serve(
                    command,
                    env=variables,
                    cwd=folder,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    user=None if account is None else account.pw_uid,
                    group=None if account is None else account.pw_gid,
                    extra_groups=None if account is None else [],
                )
            )

    def _takes_connections(self) -> bool:
        if self._processes[-1].poll() is not None:
            output = (self._folder / "output").read_text(errors="replace")
            raise RuntimeError(f"RabbitMQ did not start:\n{output[-2000:]}")
        return _answers(self.port, b"AMQP\0\0\x09\x01")


def _rabbitmq() -> Path | None:
    if _RABBITMQ.exists():
        return _RABBITMQ
    found = shutil.which("rabbitmq-server")
    return None if found is None else Path(found)


def _account() -> pwd.struct_passwd | None:
    """The account to run as; None for our own."""
    with suppress(KeyError):
        return pwd.getpwnam(_RABBITMQ_ACCOUNT) if os.geteuid() == 0 else None
    return None


def _answers(port: int, greeting: bytes) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.sendall(greeting)
        return bool(connection.recv(16))
    return False
