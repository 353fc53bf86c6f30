"""A small file system for a server's data, which can be filled and freed."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from environment.temporary import TemporaryCluster

_CHUNK = bytes(1 << 16)


class SmallDisk:
    """A context manager: the cluster's data lies on a tmpfs of its own.  It needs root; the server is restarted.

    :param megabytes: its size.  A fresh cluster with its first WAL takes about 60.
    """

    def __init__(self, cluster: TemporaryCluster, megabytes: int) -> None:
        self._cluster = cluster
        self._size = f"size={megabytes}m"
        self._ballast = cluster.data / "ballast"

    def fill(self) -> None:
        """Leave not one byte."""
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(_CHUNK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        """Remove what filled it, and start the server if it has given up."""
        self._ballast.unlink()
        self._cluster.start()

    def __enter__(self) -> Self:
        data, aside = self._cluster.data, self._cluster.home / "aside"
        self._cluster.stop()
        data.rename(aside)
        data.mkdir(mode=0o700)
        account = self._cluster.account
        owner = f"uid={account.uid},gid={account.gid},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{self._size},{owner}", "tmpfs", data], check=True)
        try:
            _move(aside, data)
            self._cluster.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.stop("immediate")
        subprocess.run(["umount", self._cluster.data], check=True)


def _move(source: Path, target: Path) -> None:
    """With owners and modes, which ``shutil`` leaves behind."""
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True)
    shutil.rmtree(source)
