"""One PostgreSQL data folder and its server: what temporary and kept clusters share."""

import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg2

from environment.account import Account
from environment.errors import UserError
from environment.installation import Installation
from environment.provision import provision
from environment.waiting import wait_until

#: The application's role and database, with the names that the foundation specifies.
APP_ROLE = "app_user"
APP_DATABASE = "skeldir_validation"

#: Seconds for one start or stop. A start takes 0.2 s; crash recovery after a kill -9 takes longer.
_DEADLINE_S = 60

#: For tests: a variable that names a folder with the results of ``initdb``, to be copied by clusters of the same
#: installation.  ``initdb`` takes a second of a processor, the copy 0.2 s, and a test run makes a hundred clusters.
INITIALISED = "SKELDIR_INITIALISED"

#: Bytes of a socket's path, without the closing zero (sun_path: 108 on Linux, 104 on macOS).
SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103
_SOCKET_PORT = 5432

#: Above the largest process id of Linux (2**22) and macOS.
_NO_PROCESS = 2**22 + 1


class Cluster:
    """A data folder, its server, and its addresses.

    Everything is in one folder of mode 0700 that belongs to the server's account: only that account (and root) reaches
    the socket, on which PostgreSQL trusts every connection.

    Attributes:
        password: the password of the application's role, where ``provision`` of this object creates it. Every account
            of the machine reaches 127.0.0.1, so no other process may know it: this process generates it and does not
            store it.

    Args:
        installation: the programs; reachable by ``account``.
        account: the account that runs the server and owns ``home``.
        home: the folder for data, log and (unless ``sockets`` is given) the socket.
        sockets: the folder for the socket, if the path of ``home`` is too long for one.
        options: server settings for this cluster.
        tcp: whether to listen on 127.0.0.1 too, with passwords, on a port that the system chooses.
    """

    def __init__(
        self,
        installation: Installation,
        account: Account,
        home: Path,
        *,
        sockets: Path | None = None,
        options: dict[str, str] | None = None,
        tcp: bool = False,
    ) -> None:
        self.installation = installation
        self.account = account
        self.home = home
        self.data = home / "data"
        self.log = home / "log"
        self._sockets = sockets or home
        self.options = dict(options or {})
        self.tcp = tcp
        self.password = secrets.token_urlsafe(24)
        self.port = free_port() if tcp else _SOCKET_PORT

    # -- addresses

    @property
    def sockets(self) -> Path:
        """The folder of the socket. For a running or crashed server it is the one in postmaster.pid: the process that
        started the server may have had another TMPDIR.
        """
        try:
            named = Path((self.data / "postmaster.pid").read_text().split("\n")[4])
        except (OSError, IndexError):
            return self._sockets
        return named if named.is_absolute() and named.parent.is_dir() else self._sockets

    def url(self, user: str = APP_ROLE, database: str = APP_DATABASE) -> str:
        """The libpq URL over the socket; no password is needed there."""
        port = f"&port={self.port}" if self.tcp else ""
        return f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}?host={quote(str(self.sockets))}{port}"

    def tcp_url(self, user: str = APP_ROLE, password: str | None = None, database: str = APP_DATABASE) -> str:
        """The URL over 127.0.0.1, where PostgreSQL asks for a password (scram-sha-256): ``self.password`` if not given.

        Raises:
            ValueError: when this cluster listens on its socket only.
        """
        if not self.tcp:
            raise ValueError("this cluster listens on its socket only")
        words = [quote(word, safe="") for word in (user, self.password if password is None else password, database)]
        return f"postgresql://{words[0]}:{words[1]}@127.0.0.1:{self.port}/{words[2]}"

    @property
    def superuser_url(self) -> str:
        """The URL of the superuser ``postgres`` in the database ``postgres``."""
        return self.url("postgres", "postgres")

    # -- life

    def initialize(self, *, sync: bool = True) -> None:
        """Create the data folder; it appears complete or not at all.

        Args:
            sync: whether to wait until it is safe on disk.

        Raises:
            UserError: initdb fails.
        """
        if not self.account.has_name:
            raise UserError(
                f"the user id {self.account.uid} has no entry in /etc/passwd, without which PostgreSQL's initdb does "
                "not work: run as a user that has one, or set DATABASE_URL to a PostgreSQL that runs already"
            )
        half = self.home / "data.half"
        shutil.rmtree(half, ignore_errors=True)
        initdb = [
            self.installation.program("initdb"),
            *("--auth-local=trust", "--auth-host=scram-sha-256", "--no-locale", "--encoding=UTF8"),
            *("--username=postgres", "--no-instructions"),
            *(() if sync else ("--no-sync",)),
            *("--pgdata", half),
        ]
        kept = Path(os.environ.get(INITIALISED, os.devnull)) / f"{self.installation.origin}-{self.installation.version}"
        made = self.account.run(["cp", "-Rp", kept, half] if kept.exists() else initdb)
        if made.returncode != 0:
            shutil.rmtree(half, ignore_errors=True)
            raise UserError(f"initdb failed in {self.home}: {_useful_lines(made.stdout)}")
        half.rename(self.data)

    def start(self) -> None:
        """Start the server and return when it accepts connections. Do nothing if it runs.

        A postmaster.pid that a crash left behind does not prevent the start, even if its number now belongs to another
        process. Neither do the children of a killed postmaster, which need a moment to notice.

        Raises:
            UserError: it does not start; the text is PostgreSQL's.
        """
        if self.pid() is not None:
            return
        self._disown_stale_pid_file()
        for leftover in self.sockets.glob(".s.PGSQL.*"):
            leftover.unlink()

        def started() -> bool:
            before = self.log.stat().st_size if self.log.exists() else 0
            result = self._pg_ctl("start", "-t", str(_DEADLINE_S), "-l", self.log, "-o", self._server_options())
            if result.returncode == 0:
                return True
            said = self._log_since(before)
            if "shared memory block" in said and "still in use" in said:
                return False
            if self.tcp and "Address already in use" in said:
                self.port = free_port()
                return False
            raise UserError(
                f"PostgreSQL {self.installation.version} did not start: "
                f"{_useful_lines(said or result.stdout)} (log: {self.log})"
            )

        wait_until(started, _DEADLINE_S, "PostgreSQL to start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server and return when it has ended. Do nothing if it does not run.

        Args:
            mode: ``smart``, ``fast`` or ``immediate`` (no checkpoint, as after a power failure).

        Raises:
            UserError: it does not stop.
        """
        if self.pid() is None:
            return
        result = self._pg_ctl("stop", "-m", mode, "-t", str(_DEADLINE_S))
        if result.returncode != 0 and self.pid() is not None:
            raise UserError(f"PostgreSQL did not stop: {_useful_lines(result.stdout)}")

    def restart(self) -> None:
        """Stop (fast) and start again; the addresses stay the same."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Crash the server: SIGKILL to the postmaster. ``start`` starts it again on the same addresses."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.pid() is None, _DEADLINE_S, "the killed postmaster to go")

    def pid(self) -> int | None:
        """The postmaster's process id, or None if it does not run."""
        return postmaster_pid(self.data)

    # -- content

    def is_provisioned(self) -> bool:
        """Whether the application's role and database exist.

        Raises:
            psycopg2.OperationalError: the server does not answer.
        """
        with (
            closing(psycopg2.connect(self.superuser_url, connect_timeout=5)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT count(*) FROM pg_database WHERE datname = %s", [APP_DATABASE])
            return cursor.fetchone() == (1,)

    def provision(self) -> None:
        """Create the application's role and database, if they are missing."""
        provision(self.superuser_url, APP_ROLE, self.password, APP_DATABASE)

    # -- inside

    def _pg_ctl(self, verb: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.account.run([self.installation.program("pg_ctl"), verb, "-w", "-D", self.data, *arguments])

    def _disown_stale_pid_file(self) -> None:
        """Keep PostgreSQL from mistaking another process for its predecessor.

        After a restart of a machine or container, the number in postmaster.pid may belong to any process, and then
        PostgreSQL refuses to start. The file itself must stay: it names the shared memory by which a new server notices
        that children of the old one still write. So only the number is changed.
        """
        path = self.data / "postmaster.pid"
        if path.exists():
            _, _, rest = path.read_text().partition("\n")
            if rest:
                path.write_text(f"{_NO_PROCESS}\n{rest}")
            else:  # after a power failure no process of the old server lives, and PostgreSQL refuses an empty file
                path.unlink()

    def _server_options(self) -> str:
        settings = {
            "listen_addresses": "127.0.0.1" if self.tcp else "",
            "port": str(self.port),
            "unix_socket_directories": str(self.sockets),
            **self.options,
        }
        return shlex.join(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))

    def _log_since(self, position: int) -> str:
        try:
            with self.log.open("rb") as log:
                log.seek(position)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""


def socket_fits(folder: Path) -> bool:
    """Whether a socket can be in this folder: its path is short enough for the kernel (the port has up to 5 digits),
    and has no character with a meaning in a list of hosts, a URL or a shell.
    """
    plain = re.fullmatch(r"[A-Za-z0-9._/+-]+", str(folder)) is not None
    return plain and len(os.fsencode(folder / ".s.PGSQL.65535")) <= SOCKET_PATH_LIMIT


def postmaster_pid(data: Path) -> int | None:
    """The process id of the postmaster that runs on this data folder, or None.

    ``postmaster.pid`` alone proves nothing: after a crash or in a fresh container its number may belong to another
    process. A postmaster's working directory is its data folder.
    """
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if sys.platform == "linux":
        try:
            return pid if os.path.samefile(os.readlink(f"/proc/{pid}/cwd"), data) else None
        except OSError:
            return None
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return pid if str(data) in shown.stdout else None


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _useful_lines(text: str) -> str:
    """The lines that contain the reason, without time stamps, as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:", "error:"))]
    chosen = (telling or lines)[-3:]
    return "; ".join(line.split("] ", 1)[-1] for line in chosen) or "it said nothing"
