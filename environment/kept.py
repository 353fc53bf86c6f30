"""The PostgreSQL of one checkout: its data stays, and all ``./dev`` commands share its server."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Self

import psycopg2

from environment.account import Account, server_account
from environment.cluster import Cluster, socket_fits
from environment.errors import UserError
from environment.installation import find_installation
from environment.locking import FileLock
from environment.naming import program, say
from environment.signals import deferred
from environment.temporary import temporary_root
from environment.waiting import wait_until

#: Seconds of waiting at the gate before it is reported, and before it is an error. The holder has 60 s to start the
#: server.
_QUIET_S, _GATE_S = 2, 150


class KeptCluster(Cluster):
    """A context manager: the server runs while any process is inside, and stops with the last one.

    A process that is inside holds a shared lock on one file of the state folder, the "use". A process that enters,
    leaves, starts or stops the server holds another lock exclusively for that moment, the "gate"; so a crashed server
    is started again while others are inside. The kernel releases the locks of a killed process.

    Args:
        state: the state folder of the checkout; must exist.

    Raises:
        UserError: PostgreSQL cannot be found, does not start, or the data is of another major version.
    """

    def __init__(self, state: Path) -> None:
        home = state / "postgres"
        account = server_account(home)
        installation = find_installation().reachable_by(account)
        super().__init__(installation, account, home, sockets=_socket_folder(home, account))
        self._use_path = state / "postgres.lock"
        self._gate_path = state / "postgres.gate"
        self._use: FileLock | None = None

    @classmethod
    def in_state(cls, state: Path) -> "KeptCluster | None":
        """The cluster of a state folder, for reading; None where none exists."""
        return cls(state) if (state / "postgres" / "data").exists() else None

    def __enter__(self) -> Self:
        with self._gate():
            use = FileLock(self._use_path)
            try:
                # Only a process at the gate ever holds it exclusively, so this does not wait.
                use.shared()
                if not self._serves():
                    with deferred():
                        self._bring_up()
            except BaseException:
                self._leave(use)
                raise
        self._use = use
        return self

    def __exit__(self, *_: object) -> None:
        use, self._use = self._use, None
        if use is not None:
            with deferred(), use, self._gate():
                self._leave(use)

    def revive(self) -> bool:
        """Start the server again if it has crashed while processes are inside; return whether it had.

        This does not wait: if another command is at the gate, that command does it.

        Raises:
            UserError: it does not start, or its data is gone.
        """
        if self.pid() is not None:
            return False
        try:
            gate = FileLock(self._gate_path)
        except OSError as error:
            raise UserError(f"the state folder {self.home.parent} is gone: {error.strerror}") from error
        with gate:
            if not gate.try_exclusive() or self.pid() is not None:
                return False
            if not self.data.exists():
                raise UserError(f"the data in {self.data} is gone")
            self.start()
            return True

    def shut_down(self, patience_s: float) -> bool:
        """Stop the server even if other commands still use it after ``patience_s`` seconds.

        Returns:
            whether there was a server to stop.
        """

        def stopped_as_the_last() -> bool:
            with self._gate(), FileLock(self._use_path) as use:
                return self._leave(use)

        was_running = self.pid() is not None
        try:
            wait_until(stopped_as_the_last, patience_s, "other commands to leave PostgreSQL")
        except TimeoutError:
            with self._gate():
                self.stop()
        return was_running

    @contextmanager
    def _gate(self) -> Iterator[None]:
        """Hold the gate: only its holder enters, leaves, starts or stops the server."""
        with FileLock(self._gate_path) as gate:
            for patience_s in (_QUIET_S, _GATE_S):
                try:
                    wait_until(gate.try_exclusive, patience_s, f"another {program()} to start or stop PostgreSQL")
                    break
                except TimeoutError:
                    if patience_s == _GATE_S:
                        raise
                    say(f"waiting for another {program()} to start or stop PostgreSQL")
            yield

    def _leave(self, use: FileLock) -> bool:
        """At the gate: stop the server if no other process is inside, and return whether that was so."""
        with use:
            if not use.try_exclusive():
                return False
            self.stop()
            return True

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
        sockets = self.sockets
        super().stop(mode)
        if sockets != self.home:
            with suppress(OSError):
                sockets.rmdir()

    def _bring_up(self) -> None:
        self._own_folder(self.home)
        self._check_major()
        if not self.data.exists():
            self.initialize()
        self.start()
        self.provision()

    def _own_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            # lstat: in a shared temporary folder another account may have put a link here.
            found = folder.lstat()
            if found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode) and not self.account.is_current:
                os.chown(folder, self.account.uid, self.account.gid)
                found = folder.lstat()
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
        if found.st_uid != self.account.uid or not stat.S_ISDIR(found.st_mode):
            raise UserError(f"{folder} does not belong to us; remove it, or set SKELDIR_STATE_DIR")

    def _check_major(self) -> None:
        version = self.data / "PG_VERSION"
        if version.exists() and (made_by := version.read_text().strip()) != str(self.installation.major):
            raise UserError(
                f"the data in {self.data} is of PostgreSQL {made_by}, and this is {self.installation.version}: "
                "move that folder away (pg_dump it with the old programs first, if you need it)"
            )


def _socket_folder(home: Path, account: Account) -> Path:
    """The cluster's own folder, or a short one in /tmp when its path is too long: each Nix shell has another TMPDIR,
    which is removed with that shell.
    """
    if socket_fits(home):
        return home
    return temporary_root(account, Path("/tmp")) / f"skeldir-{sha256(bytes(home)).hexdigest()[:16]}"  # noqa: S108
