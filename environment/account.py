"""The system account that runs PostgreSQL: initdb and postgres refuse to run as root."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from environment.naming import say

#: Created with useradd where root finds no account "postgres".
OWN_ACCOUNT = "skeldir-postgres"


@dataclass(frozen=True)
class Account:
    """A system account.  ``Account.current()`` is the one that runs this process."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, uid: int) -> "Account":
        """The account with this number. An account without a name (in some containers) works, except for initdb."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(str(uid), uid, os.getgid())
        return cls(entry.pw_name, uid, entry.pw_gid)

    @classmethod
    def current(cls) -> "Account":
        """The account of this process."""
        return cls.of(os.geteuid())

    @property
    def is_current(self) -> bool:
        """Whether this process already runs as this account."""
        return self.uid == os.geteuid()

    @property
    def has_name(self) -> bool:
        """Whether the system has a name for it: a container may run as any number."""
        try:
            pwd.getpwuid(self.uid)
        except KeyError:
            return False
        return True

    def run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a command as this account, in ``/``, and return its output (both streams in ``stdout``).

        The caller's PG* variables are left out: their PGDATA or PGOPTIONS are meant for another server.

        Raises:
            PermissionError: the account cannot reach the program.
        """
        other = not self.is_current
        return subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env=_server_environment(),
            cwd="/",
            start_new_session=True,  # a Ctrl-C at the terminal must not interrupt pg_ctl
            user=self.uid if other else None,
            group=self.gid if other else None,
            extra_groups=[] if other else None,
        )

    def can_enter(self, folder: Path) -> bool:
        """Whether the account may enter this folder and all folders above it."""
        return self.run(["/bin/sh", "-c", 'cd -- "$1"', "sh", folder]).returncode == 0


def server_account(data: Path | None = None) -> Account:
    """Choose the account that runs PostgreSQL.

    Every account but root runs it itself. For root it is, in this order: the owner of an existing data folder,
    ``postgres``, an account that we create (and report once), ``nobody``.

    Args:
        data: the data folder, if one may exist already.
    """
    if os.geteuid() != 0:
        return Account.current()
    if data is not None and data.exists() and (owner := data.stat().st_uid) != 0:
        return Account.of(owner)
    for name in ("postgres", OWN_ACCOUNT):
        if (known := _named(name)) is not None:
            return known
    if shutil.which("useradd"):
        made = subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", OWN_ACCOUNT],
            check=False,
            capture_output=True,
        )
        if made.returncode == 0 and (known := _named(OWN_ACCOUNT)) is not None:
            say(f"created the system user {OWN_ACCOUNT}: PostgreSQL refuses to run as root")
            return known
    return _named("nobody") or Account("nobody", 65534, 65534)


def _named(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name, entry.pw_uid, entry.pw_gid)


def _server_environment() -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}
