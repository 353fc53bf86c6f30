"""HAProxy before the nodes of a Patroni cluster, configured as the guide tells operators to."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psycopg2

from environment.cluster import APP_DATABASE, APP_ROLE, free_port
from environment.lifetime import Lifetime
from environment.testkit.children import end, serve
from environment.testkit.patroni import Patroni, as_account, block_of_guide, replaced
from environment.testkit.tables import scalar
from environment.waiting import wait_until


class HAProxy(Lifetime):
    """A context manager: passes connections on to the node whose Patroni says that it leads.

    Args:
        program: the path of ``haproxy``.
        patroni: the nodes.
        idle_s: after how many seconds it closes a connection on which nothing is sent; None for the guide's half an
            hour.
    """

    def __init__(self, program: str, patroni: Patroni, *, idle_s: int | None = None) -> None:
        self.port = free_port()
        self._program = program
        self._account = patroni.nodes[0].account
        self._password = patroni.password
        self._folder = Path(tempfile.mkdtemp(prefix="faults-haproxy-"))
        self._process: subprocess.Popen[bytes] | None = None
        changes = {"bind 127.0.0.1:6432": f"bind 127.0.0.1:{self.port}"}
        for node in patroni.nodes:
            name = f"server {node.name} "
            changes[f"{name}{node.name}:5432 check port 8008"] = f"{name}127.0.0.1:{node.port} check port {node.rest}"
        if idle_s is not None:
            changes |= {f"timeout {end} 30m": f"timeout {end} {idle_s}s" for end in ("client", "server")}
        (self._folder / "haproxy.cfg").write_text(replaced(block_of_guide("haproxy.cfg"), changes))

    def url(self, database: str) -> str:
        """The URL of a database through it."""
        return f"postgresql://{APP_ROLE}:{self._password}@127.0.0.1:{self.port}/{database}"

    def open(self) -> None:
        """Start it; return when it leads to a server."""
        file = self._folder / "haproxy.cfg"
        if not self._account.is_current:
            for path in (self._folder, file):
                os.chown(path, self._account.uid, self._account.gid)
        self._process = serve([self._program, "-db", "-f", str(file)], cwd="/", **as_account(self._account))
        wait_until(self._leads, 30, "HAProxy to find the leader")

    def close(self) -> None:
        """Stop it and remove its files."""
        if self._process is not None:
            end(self._process, 10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _leads(self) -> bool:
        """Whether it passes on to the leader alone: until its first checks it takes each server for one."""
        with suppress(psycopg2.Error):
            return all(scalar(self.url(APP_DATABASE), "SELECT NOT pg_is_in_recovery()") for _ in range(6))
        return False
