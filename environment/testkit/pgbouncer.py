"""PgBouncer in front of a cluster, by default in transaction mode."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from environment.cluster import APP_DATABASE, APP_ROLE, free_port
from environment.lifetime import Lifetime
from environment.temporary import TemporaryCluster
from environment.testkit.children import serve
from environment.waiting import wait_until

#: Fewer sessions than clients, so that clients share them.
POOL_SIZE = 6


class PgBouncer(Lifetime):
    """A context manager.

    Args:
        program: the path of ``pgbouncer``.
        cluster: the server behind it.
        mode: ``transaction`` or ``session``.
        settings: more lines of its configuration.
    """

    def __init__(
        self, program: str, cluster: TemporaryCluster, *, mode: str = "transaction", settings: str = ""
    ) -> None:
        self._program = program
        self._account = cluster.account
        self._port = free_port()
        self._url = f"postgresql://{APP_ROLE}:{cluster.password}@127.0.0.1:{self._port}/{APP_DATABASE}"
        self._folder = Path(tempfile.mkdtemp(prefix="faults-pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None
        file, users = self._folder / "pgbouncer.ini", self._folder / "users"
        users.write_text(f'"{APP_ROLE}" "{cluster.password}"\n')
        file.write_text(
            f"[databases]\n{APP_DATABASE} = host={cluster.sockets} port={cluster.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self._port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\n"
            f"pool_mode = {mode}\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 200\n{settings}\n"
        )
        self._command = [program, "--quiet", str(file)]
        if not self._account.is_current:
            for path in (self._folder, file, users):
                os.chown(path, self._account.uid, self._account.gid)

    @property
    def url(self) -> str:
        """The URL of the application's database through it."""
        return self._url

    def start(self) -> None:
        """Start it; return when it answers."""
        other = not self._account.is_current
        self._process = serve(
            self._command,
            user=self._account.uid if other else None,
            group=self._account.gid if other else None,
            extra_groups=[] if other else None,
        )
        wait_until(self._answers, 10, "PgBouncer to answer")

    def end(self, number: int) -> None:
        """Send it a signal and wait for its end.  TERM closes its connections in order, KILL does not."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(10)

    def change_mode(self, mode: str) -> None:
        """Write another ``pool_mode`` into its configuration, and have it read that."""
        assert self._process is not None
        file = Path(self._command[-1])
        file.write_text(re.sub(r"^pool_mode = \w+$", f"pool_mode = {mode}", file.read_text(), flags=re.MULTILINE))
        self._process.send_signal(signal.SIGHUP)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
            return True
        return False

    open = start

    def close(self) -> None:
        """Kill it and remove its files."""
        if self._process is not None:
            self.end(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)
