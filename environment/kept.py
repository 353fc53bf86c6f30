"""The PostgreSQL of one checkout: its data stays, and all ``./dev`` commands share its server."""

import os
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Self

import psycopg2

from environment.account import Account, server_account
from environment.cluster import Cluster, socket_fits
from environment.errors import UserError
from environment.installation import find_installation
from environment.locking import FileLock
from environment.signals import deferred
from environment.temporary import temporary_root
from environment.waiting import wait_until


class KeptCluster(Cluster):
    """A context manager: the server runs while anybody is inside, in any process, and stops with the last.

    Who is inside holds a shared lock on a file of the state folder; who starts or stops the server holds it
    exclusively.  The kernel drops the lock of a process that was killed, so the next command finds either a
    running server, which it uses, or a crashed one, which it starts.

    :param state: the state folder of the checkout; must exist.
    :raises UserError: when PostgreSQL cannot be found, does not start, or the data is of another major.
    """

    def __init__(self, state: Path) -> None:
        home = state / "postgres"
        account = server_account(home)
        installation = find_installation().reachable_by(account)
        super().__init__(installation, account, home, sockets=_socket_folder(home, account))
        self._lock_path = state / "postgres.lock"
        self._lock: FileLock | None = None

    @classmethod
    def in_state(cls, state: Path) -> "KeptCluster | None":
        """The cluster of a state folder, to look at; None where none has been made."""
        return cls(state) if (state / "postgres" / "data").exists() else None

    def __enter__(self) -> Self:
        lock = FileLock(self._lock_path)
        try:
            # With the shared lock held nobody may stop the server, so what is seen then stays true.
            lock.shared()
            while not self._serves():
                lock.exclusive()
                with deferred():
                    self._bring_up()
                lock.shared()
        except BaseException:
            self._leave(lock)
            raise
        self._lock = lock
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._leave(self._lock)
            self._lock = None

    def shut_down(self, patience_s: float) -> bool:
        """Stop the server even if other commands still use it after ``patience_s`` seconds.

        :returns: whether there was a server to stop.
        """
        with FileLock(self._lock_path) as lock:
            with suppress(TimeoutError):
                wait_until(lock.try_exclusive, patience_s, "other commands to leave PostgreSQL")
            was_running = self.pid() is not None
            self.stop()
            return was_running

    def _leave(self, lock: FileLock) -> None:
        with deferred(), lock:
            if lock.try_exclusive():
                self.stop()

    def _serves(self) -> bool:
        if self.pid() is None:
            return False

        def answers() -> bool | None:
            try:
                return self.is_provisioned()
            except psycopg2.OperationalError:
                return None if self.pid() is not None else False

        # A server whose starter was killed may still be recovering.
        return bool(wait_until(lambda: [a] if (a := answers()) is not None else [], 60, "PostgreSQL to answer")[0])

    def start(self) -> None:
        self._own_folder(self.sockets)
        super().start()

    def stop(self, mode: str = "fast") -> None:
        super().stop(mode)
        if self.sockets != self.home:
            with suppress(OSError):
                self.sockets.rmdir()

    def _bring_up(self) -> None:
        self._own_folder(self.home)
        self._check_major()
        if not self.data.exists():
            self.initialise()
        self.start()
        self.provision()

    def _own_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            # lstat: in a shared temporary folder somebody else may have put a link here.
            found = folder.lstat()
            if found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode) and not self.account.is_current:
                os.chown(folder, self.account.uid, self.account.gid)
                found = folder.lstat()
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
        if found.st_uid != self.account.uid or not stat.S_ISDIR(found.st_mode):
            raise UserError(f"{folder} is not ours; remove it, or set SKELDIR_STATE_DIR")

    def _check_major(self) -> None:
        version = self.data / "PG_VERSION"
        if version.exists() and (made_by := version.read_text().strip()) != str(self.installation.major):
            raise UserError(
                f"the data in {self.data} is of PostgreSQL {made_by}, and this is {self.installation.version}: "
                "move that folder away (pg_dump it with the old programs first, if you need it)"
            )


def _socket_folder(home: Path, account: Account) -> Path:
    """The cluster's own folder, or a short one in the temporary folder when its path is too long."""
    if socket_fits(home):
        return home
    return temporary_root(account) / f"skeldir-{sha256(bytes(home)).hexdigest()[:16]}"
