"""Advisory locks between processes that the kernel releases when their owner dies, even by kill -9."""

import fcntl
import os
from pathlib import Path
from typing import Self


class FileLock:
    """``flock`` on one file. Closing it, or the end of the process, releases it.

    The descriptor is close-on-exec, so a child never keeps the lock of its parent.

    Args:
        path: created when absent; its folder must exist.

    Raises:
        OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def shared(self) -> None:
        """Wait until no process holds it exclusively, and share it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take it exclusively if no other process holds it; return whether that worked.

        What this object held before is released first: of several sharers that all leave by calling this, the last one
        always gets it.
        """
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Release it. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
