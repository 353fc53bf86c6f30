"""PgBouncer before a cluster, in transaction mode unless told otherwise."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.processes import dies_with_us
from environment.cluster import APP_DATABASE, APP_ROLE, free_port
from environment.temporary import TemporaryCluster
from environment.waiting import wait_until

#: Fewer sessions than clients, or nothing would be shared.
POOL_SIZE = 6


class PgBouncer:
    """A context manager.

    :param program: the path of ``pgbouncer``.
    :param settings: more lines of its configuration.
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
        """The application's database, through it."""
        return self._url

    def start(self) -> None:
        """Start it, and return when it answers."""
        other = not self._account.is_current
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dies_with_us(),
            user=self._account.uid if other else None,
            group=self._account.gid if other else None,
            extra_groups=[] if other else None,
        )
        wait_until(self._answers, 10, "PgBouncer to answer")

    def end(self, number: int) -> None:
        """TERM ends it at once, with its connections; KILL as well, and it cannot say so."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(10)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
            return True
        return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)
