"""A file descriptor that one thread makes readable to wake another, which waits in select or poll."""

from __future__ import annotations

import os
import select
import threading


class Wake:
    """Set and cleared any number of times; setting twice is setting once."""

    #: Held by the class: when a program ends, this module's names may be gone before the last instance is.
    _close_descriptor = staticmethod(os.close)

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:  # macOS
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
        self.closed = False
        # A closed descriptor may belong to another connection a moment later. Reentrant, for signal handlers.
        self._lock = threading.RLock()

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        """Make it readable. Harmless after `close`."""
        with self._lock:
            if not self.closed:
                try:
                    os.write(self._write, b"\1\0\0\0\0\0\0\0")
                except BlockingIOError:  # a full pipe is readable
                    return

    def clear(self) -> None:
        """Make it unreadable. Harmless after `close`."""
        with self._lock:
            if not self.closed:
                try:
                    os.read(self._read, 8)
                except BlockingIOError:
                    return

    def wait(self, seconds: float, *others: int) -> list[int]:
        """Wait until it or one of `others` is readable; the descriptors that are."""
        # Not select, which refuses descriptors from 1024 on: a worker with hundreds of children has them.
        poller = select.poll()
        for descriptor in (self._read, *others):
            poller.register(descriptor, select.POLLIN)
        return [descriptor for descriptor, _ in poller.poll(max(seconds, 0) * 1000)]

    def close(self) -> None:
        with self._lock:
            self._close()

    def __del__(self) -> None:
        # For a program that drops its connection without closing it. No other thread can be here, so no lock is taken,
        # which a thread that a fork has left behind may hold forever.
        self._close()

    def _close(self) -> None:
        if not getattr(self, "closed", True):
            self.closed = True
            self._close_descriptor(self._read)
            if self._write != self._read:
                self._close_descriptor(self._write)
