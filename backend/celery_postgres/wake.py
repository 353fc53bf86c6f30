"""A file descriptor that one thread makes readable so that another, which waits in select or poll, goes on."""

from __future__ import annotations

import os
import select


class Wake:
    """Set and cleared any number of times; setting twice is setting once."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:  # macOS
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
        self.closed = False

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        """Make it readable. Harmless after `close`."""
        if not self.closed:
            try:
                os.write(self._write, b"\1\0\0\0\0\0\0\0")
            except (BlockingIOError, OSError):  # a full pipe is readable, a closed one waits for nobody
                return

    def clear(self) -> None:
        try:
            os.read(self._read, 8)
        except (BlockingIOError, OSError):
            return

    def wait(self, seconds: float, *others: int) -> list[int]:
        """Wait until it or one of `others` is readable; the descriptors that are."""
        readable, _, _ = select.select([self._read, *others], [], [], max(seconds, 0))
        return readable

    def __del__(self) -> None:
        # A program that drops its connection without closing it, as drivers forgive.
        self.close()

    def close(self) -> None:
        if not getattr(self, "closed", True):
            self.closed = True
            os.close(self._read)
            if self._write != self._read:
                os.close(self._write)
