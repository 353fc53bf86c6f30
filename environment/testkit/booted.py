"""A machine whose process 1 is systemd: units of NixOS, a PostgreSQL, and the programs of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from environment.lifetime import Lifetime
from environment.locking import FileLock
from environment.testkit.nixos_units import unit_text
from environment.waiting import wait_until

#: What NixOS makes for the module.
ACCOUNTS = {"root": 0, "postgres": 701, "celery": 702, "celery-migrator": 703, "nobody": 65534}

#: What systemd, PostgreSQL and the account of the units expect to find.
FOLDERS = ("run", "tmp", "proc", "sys", "dev", "root", "usr", "etc", "var/lib/postgresql", "var/log/journal")

#: Two machines would share this one's control groups, and stop each other's units.
ONE_AT_A_TIME = Path("/run/lock/skeldir-booted")

#: In the place of services.postgresql: a database that knows accounts by their socket, and passwords over TCP.
POSTGRESQL = """\
[Service]
User=postgres
RuntimeDirectory=postgresql
ExecStartPre=/bin/sh -c '{bin}/initdb -D /var/lib/postgresql/data -U postgres \
    --auth-local peer --auth-host scram-sha-256'
ExecStart={bin}/postgres -D /var/lib/postgresql/data -k /run/postgresql -c listen_addresses=127.0.0.1
ExecStartPost=/bin/sh -c 'until {bin}/pg_isready -q -h /run/postgresql; do :; done; \
    {bin}/createdb -h /run/postgresql celery'
KillSignal=SIGINT
"""


class BootedMachine(Lifetime):
    """A context manager: systemd, in a container without a network.  Needs root.

    Args:
        root: an empty folder for the machine's files.
        services: the evaluated `systemd.services`.
        postgresql: the folder of PostgreSQL's programs.
        read_only: folders of this machine that it shares, besides /usr and the store.
        files: texts of further files by path; only root may read them.
    """

    def __init__(
        self, root: Path, services: dict[str, Any], postgresql: Path, read_only: list[Path], files: dict[str, str]
    ) -> None:
        self._root, self._services, self._postgresql = root, services, postgresql
        self._read_only = [Path("/usr"), Path("/nix/store"), *read_only]
        self._files = files
        self._container: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._lock: FileLock | None = None

    def open(self) -> None:
        """Write the machine's files and boot it."""
        self._lock = FileLock(ONE_AT_A_TIME)
        wait_until(self._lock.try_exclusive, 600, "another test's machine to stop", 1)
        self._root.chmod(0o755)
        for folder in FOLDERS:
            (self._root / folder).mkdir(parents=True)
        shutil.chown(self._root / "var/lib/postgresql", ACCOUNTS["postgres"], ACCOUNTS["postgres"])
        for link in ("bin", "sbin", "lib", "lib64"):
            (self._root / link).symlink_to(f"usr/{link}")
        self._write_configuration()
        self._write_units()
        console = (self._root / "console.log").open("wb")
        self._container = subprocess.Popen(
            [
                *("systemd-nspawn", f"--directory={self._root}", "--boot", "--private-network"),
                *("--register=no", "--keep-unit", "--console=pipe"),
                *(f"--bind-ro={folder}" for folder in self._read_only),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # On the older hierarchy systemd is not told when a unit's last process has ended.
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        console.close()
        self._leader = wait_until(self._find_leader, 30, "the container's process 1")

    def close(self) -> None:
        """Stop it, at once."""
        if self._container is not None:
            self._container.terminate()
            self._container.terminate()  # the second one does not wait for a shutdown
            self._container.wait(30)
        if self._lock is not None:
            self._lock.close()

    def run(self, *words: str, account: str = "root", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine."""
        uid = str(ACCOUNTS[account])
        become = [] if account == "root" else ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
        return subprocess.run(
            ["nsenter", "--target", str(self._leader), "--all", *become, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, as systemd shows it."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def log(self, unit: str) -> str:
        """What a unit has logged."""
        return self.run("journalctl", "--no-pager", "--output", "cat", "--unit", unit).stdout

    def _find_leader(self) -> int:
        assert self._container is not None
        children = Path(f"/proc/{self._container.pid}/task/{self._container.pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        return 0

    def _write_configuration(self) -> None:
        etc = self._root / "etc"
        for name in ("nsswitch.conf", "os-release", "ld.so.cache"):
            shutil.copy(f"/etc/{name}", etc / name)
        texts = {
            "hosts": "127.0.0.1 localhost machine\n",
            "hostname": "machine\n",
            "machine-id": "",
            "passwd": "".join(f"{name}:x:{uid}:{uid}::/:/bin/sh\n" for name, uid in ACCOUNTS.items()),
            "group": "".join(f"{name}:x:{gid}:\n" for name, gid in ACCOUNTS.items()),
        }
        for name, text in texts.items():
            (etc / name).write_text(text)
        for name, text in self._files.items():
            path = self._root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(text)

    def _write_units(self) -> None:
        folder = self._root / "etc/systemd/system"
        texts = {
            # No login, no network to configure: what PostgreSQL and the workers need.
            "default.target": "[Unit]\nRequires=basic.target postgresql.target celery.target\n",
            "network-online.target": "[Unit]\n",
            "postgresql.target": "[Unit]\nRequires=postgresql.service\nAfter=postgresql.service\n",
            "postgresql.service": POSTGRESQL.format(bin=self._postgresql),
            "celery.target": "[Unit]\n",
            **{f"{name}.service": unit_text(service) for name, service in self._services.items()},
        }
        folder.mkdir(parents=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
        for name, service in self._services.items():
            for target in service.get("wantedBy", []):
                (folder / f"{target}.wants").mkdir(exist_ok=True)
                (folder / f"{target}.wants" / f"{name}.service").symlink_to(f"../{name}.service")
