"""A PostgreSQL that lives only as long as its owner: for tests and checks."""

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from environment.account import Account, server_account
from environment.cluster import Cluster, postmaster_pid, socket_fits
from environment.errors import UserError
from environment.installation import DEFAULT_MAJOR, find_installation
from environment.lifetime import Lifetime
from environment.locking import FileLock
from environment.waiting import wait_until

_PREFIX = "skeldir-pg-"
_OWNER_LOCK = "owner.lock"

#: A temporary cluster need not survive a power failure. Without these settings a test run takes twice as long.
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class TemporaryCluster(Cluster, Lifetime):
    """A context manager: a fresh server with the application's role and an empty database.

    It is in its own folder in the system's temporary folder, and is removed afterwards. A killed owner leaves its
    server behind; the next TemporaryCluster stops and removes it.

    Args:
        major: the PostgreSQL major version.
        tcp: whether to listen on 127.0.0.1 too.

    Raises:
        UserError: PostgreSQL cannot be found or does not start.

    Example::

        with TemporaryCluster() as cluster:
            psycopg2.connect(cluster.url())
    """

    def __init__(self, major: int = DEFAULT_MAJOR, *, tcp: bool = False) -> None:
        account = server_account()
        installation = find_installation(major).reachable_by(account)
        root = temporary_root(account)
        sweep(root)
        home, self._lock = _claim_folder(root)
        if not account.is_current:
            os.chown(home, account.uid, account.gid)
        super().__init__(installation, account, home, options=_FAST, tcp=tcp)

    def open(self) -> None:
        """Start the server, with the application's role and database."""
        self.initialize(sync=False)
        self.start()
        self.provision()

    def close(self) -> None:
        """Stop the server and remove its folder. Safe to call twice."""
        _remove(self.home)
        self._lock.close()


def temporary_root(account: Account, *preferred: Path) -> Path:
    """The folder for temporary clusters: the system's temporary folder, or /tmp if that one is too deep for a socket
    (107 bytes) or private to the caller.

    Args:
        preferred: used instead, if it is suitable.

    Raises:
        UserError: neither is suitable.
    """
    for root in (*preferred, Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  mkdtemp makes what is used in it
        if socket_fits(root / f"{_PREFIX}12345678") and account.can_enter(root):
            return root
    raise UserError("neither the temporary folder nor /tmp can hold a PostgreSQL socket; set TMPDIR to a short path")


def sweep(root: Path) -> list[Path]:
    """Stop and remove the temporary clusters of this user whose owners are dead; return their folders."""
    swept = []
    for home in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            # An owner that died before it had a lock left an empty folder. An owner that is about to take its lock
            # notices that its folder is gone, and creates another.
            if home.stat().st_uid == os.geteuid() and not (home / _OWNER_LOCK).exists():
                home.rmdir()
                continue
            if (home / _OWNER_LOCK).lstat().st_uid != os.geteuid():
                continue
            with FileLock(home / _OWNER_LOCK) as lock:
                if lock.try_exclusive():
                    _remove(home)
                    swept.append(home)
    return swept


def _claim_folder(root: Path) -> tuple[Path, FileLock]:
    """Create a folder and lock it; start again if a sweep was faster than the lock."""
    while True:
        home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        try:
            lock = FileLock(home / _OWNER_LOCK)
        except FileNotFoundError:
            continue
        if lock.try_exclusive() and (home / _OWNER_LOCK).exists():
            return home, lock
        lock.close()


def _remove(home: Path) -> None:
    pid = postmaster_pid(home / "data")
    if pid is not None:
        # SIGQUIT is PostgreSQL's immediate shutdown: no checkpoint for data that will be deleted.
        for number in (signal.SIGQUIT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            try:
                wait_until(lambda: postmaster_pid(home / "data") is None, 10, "PostgreSQL to go")
                break
            except TimeoutError:
                continue
    shutil.rmtree(home, ignore_errors=True)
