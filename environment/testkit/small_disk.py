"""A small file system for the data of a cluster, which a test can fill and free."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

from environment.lifetime import Lifetime
from environment.temporary import TemporaryCluster

_CHUNK = bytes(1 << 16)


class SmallDisk(Lifetime):
    """A context manager: moves the cluster's data to a tmpfs of its own and restarts the server.  Needs root.

    Args:
        cluster: a running cluster.
        megabytes: the size of the tmpfs.  A new cluster with its first WAL takes about 60.
    """

    def __init__(self, cluster: TemporaryCluster, megabytes: int) -> None:
        self._cluster = cluster
        self._size = f"size={megabytes}m"
        self._ballast = cluster.data / "ballast"
        self._mounted = False

    def fill(self) -> None:
        """Write a file until no byte is free."""
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(_CHUNK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """Remove that file, and start the server if it has stopped."""
        self._ballast.unlink()
        self._cluster.start()

    def open(self) -> None:
        """Move the data and start the server on it."""
        data, aside = self._cluster.data, self._cluster.home / "aside"
        self._cluster.stop()
        data.rename(aside)
        data.mkdir(mode=0o700)
        account = self._cluster.account
        owner = f"uid={account.uid},gid={account.gid},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{self._size},{owner}", "tmpfs", data], check=True)
        self._mounted = True
        _move(aside, data)
        self._cluster.start()

    def close(self) -> None:
        """Stop the server and unmount its data, which is then gone."""
        if self._mounted:
            self._cluster.stop("immediate")
            subprocess.run(["umount", self._cluster.data], check=True)
            self._mounted = False


def _move(source: Path, target: Path) -> None:
    """Keeps owners and modes, unlike ``shutil``."""
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True)
    shutil.rmtree(source)
