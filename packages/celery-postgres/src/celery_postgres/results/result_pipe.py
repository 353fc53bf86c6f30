"""The pipe through which prefork children pass finished tasks to their worker's main process, which stores them.

A child that stores its results itself needs a commit for each: 450 us of processor time, of which the child waits half.
The main process stores hundreds in one commit, together with the acknowledgement of their messages.

A write of at most `PIPE_BUF` bytes arrives complete or not at all (POSIX, write()), also from a child that is killed;
and what a killed child has written is read. A larger record comes in pieces of that size, between which those of other
children may lie. A child remembers what it has passed on until the main process confirms that it is stored, in memory
that the two share: so nothing is lost when the main process is killed either.

A child never waits here: while the pipe is full, or the main process does not keep up, it stores its results itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import mmap
import os
import select
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from celery_postgres.compat.upstream import outlive_main_process
from celery_postgres.results.records import LONGEST, Assembly, pack, pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_postgres.results.write import Write

Database = tuple[str, ...]

#: 1,000 records: the 64 kB of a new pipe were full when the main process waited 80 ms for the disk.
_PIPE_BYTES = 1 << 18
_READ_BYTES = 1 << 20
_UNTIL_RESTARTED_S = 1.0
_ACCEPTING = b"\1"
#: How often a child that ends looks whether its results are stored.
_LOOK_MS = 5
#: How long a child whose main process is gone lets its task store a result.
_STORING_S = 10.0
_SLOTS = 4096
_NUMBER_BITS = 40
_MOST_CHILDREN = (1 << 24) - 1
_DIGEST_BYTES = hashlib.sha256().digest_size


class ResultPipe:
    """Created before the pool forks. The main process and its children each use one end."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        with contextlib.suppress(OSError, AttributeError):  # a user's pipes have a limit; macOS grows them itself
            fcntl.fcntl(self._write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        #: Shared: the database that the main process reads for and whether it does now, and for each child the last
        #: record that it has stored.
        self._served = mmap.mmap(-1, _DIGEST_BYTES + 1)
        self._shared = mmap.mmap(-1, 8 * _SLOTS)
        self._confirmed = memoryview(self._shared).cast("Q")
        self._assembly = Assembly()
        self._reading = False
        self._forks = 0
        self._forking = threading.Lock()
        self._pid = os.getpid()
        self._begin_child(0)

    def _begin_child(self, child: int) -> None:
        self._child = child
        self._sent = 0
        self._unconfirmed: deque[tuple[int, Write]] = deque()
        #: The last record of each task among them.
        self._tasks: dict[str, int] = {}
        self._lock = threading.RLock()  # a soft time limit raises in the middle of it
        #: Held by the thread that stores or passes on a result.
        self.storing = threading.RLock()
        self._watcher: threading.Thread | None = None
        self._main_process: int | None = None

    def before_fork(self) -> None:
        self._forking.acquire()  # two threads may fork
        self._forks += 1

    def after_fork_in_parent(self) -> None:
        self._forking.release()

    def after_fork_in_child(self) -> None:
        """Become the end of a child. A child's child has none: the main process would not know it."""
        self._forking = threading.Lock()
        if self._child == 0:
            os.close(self._read_end)
            with contextlib.suppress(OSError, AttributeError):  # macOS, and Linux before 5.3
                self._main_process = os.pidfd_open(self._pid)
            self._begin_child(self._forks % _MOST_CHILDREN + 1 if os.getppid() == self._pid else -1)
        else:
            self._begin_child(-1)

    # -- in a child

    def offer(self, database: Database, write: Write, recover: Callable[[], None]) -> bool:
        """Pass on the end of a task, without waiting.

        Args:
            recover: stores what is unconfirmed. If the main process is killed, it is called in a thread of its own, and
                then this child is killed too.

        Returns:
            False if the main process does not read for this database, does not keep up or is gone, or if the write does
            not fit.
        """
        if self._child <= 0 or self._served[:] != _digest(database) + _ACCEPTING:
            return False
        record = pack(write)
        if len(record) > LONGEST:
            return False
        with self._lock:
            if self._watcher is None and not self._begin_watching(recover):
                return False
            self._forget_confirmed()
            self._sent += 1
            # Before it is written: if something raises in between, it is stored twice and not never.
            self._unconfirmed.append((self._sent, write))
            try:
                for piece in pieces_of(record, self._child, self._sent):
                    os.write(self._write_end, piece)
            except OSError:  # it is full, or has no reader any more; the pieces that are in it are dropped
                self._unconfirmed.pop()
                return False
            for one in write.outcomes:
                self._tasks[one.task_id] = self._sent
        return True

    def includes(self, write: Write) -> bool:
        """Whether a state of the same task is unconfirmed."""
        if not self._tasks:
            return False
        with self._lock:
            self._forget_confirmed()
            return any(one.task_id in self._tasks for one in write.outcomes)

    def unconfirmed(self) -> list[Write]:
        """What this child has passed on and the main process has not stored yet, in its order."""
        if not self._unconfirmed:
            return []
        with self._lock:
            self._forget_confirmed()
            return [write for _, write in self._unconfirmed]

    def forget(self) -> None:
        """This child has stored what was unconfirmed."""
        with self._lock:
            self._unconfirmed.clear()
            self._tasks.clear()

    def _forget_confirmed(self) -> None:
        child, number = divmod(self._confirmed[self._child % _SLOTS], 1 << _NUMBER_BITS)
        if child == self._child:
            while self._unconfirmed and self._unconfirmed[0][0] <= number:
                record, write = self._unconfirmed.popleft()
                for one in write.outcomes:
                    if self._tasks.get(one.task_id) == record:
                        del self._tasks[one.task_id]

    def end(self, patience_s: float) -> None:
        """Called when this child is about to end: wait until everything is stored. If the main process is killed
        meanwhile, the watching thread stores it and ends this child."""
        until = time.monotonic() + patience_s
        while self._watcher is not None and self.unconfirmed() and time.monotonic() < until:
            if self._main_is_gone(_LOOK_MS):
                self._watcher.join()

    def _begin_watching(self, recover: Callable[[], None]) -> bool:
        watcher = threading.Thread(target=self._watch, args=(recover,), name="celery_postgres result pipe", daemon=True)
        try:
            watcher.start()
        except RuntimeError:  # this process may have no more threads
            return False
        # Celery has the kernel kill a child together with its main process. The thread does, a moment later.
        outlive_main_process()
        self._watcher = watcher
        return True

    def _main_is_gone(self, wait_ms: int | None) -> bool:
        poller = select.poll()
        poller.register(self._write_end, 0)  # an error is always reported: there is no reader any more
        if self._main_process is not None:  # another program may have inherited the reader's end
            poller.register(self._main_process, select.POLLIN)
        return bool(poller.poll(wait_ms))

    def _watch(self, recover: Callable[[], None]) -> None:
        """Wait for the end of the main process, and follow it."""
        self._main_is_gone(None)
        try:
            recover()
            self.storing.acquire(timeout=_STORING_S)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    # -- in the main process

    def serve(self, database: Database) -> bool:
        """Read for this database from now on; whether it is the first one, or the same."""
        if not any(self._served[:_DIGEST_BYTES]):
            self._served[:] = _digest(database) + _ACCEPTING
        return self._served[:_DIGEST_BYTES] == _digest(database)

    def accept(self, accepting: bool) -> None:
        """Tell the children whether this process keeps up."""
        self._served[_DIGEST_BYTES:] = _ACCEPTING if accepting else b"\0"

    def fileno(self) -> int:
        return self._read_end

    def read(self) -> list[Write]:
        """Everything that the pipe contains, or nothing in a signal handler that interrupts it. For one thread."""
        if self._reading:
            return []
        self._reading = True
        try:
            return self._read()
        finally:
            self._reading = False

    def _read(self) -> list[Write]:
        try:
            data = os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:  # a worker that is about to restart (HUP) has closed every descriptor
            time.sleep(_UNTIL_RESTARTED_S)
            return []
        return self._assembly.add(data)

    def confirm(self, writes: list[Write]) -> None:
        """These are stored, and all that came before them."""
        for write in writes:
            if write.origin is not None:
                child, number = write.origin
                self._confirmed[child % _SLOTS] = child << _NUMBER_BITS | number


@functools.lru_cache(maxsize=8)
def _digest(database: Database) -> bytes:
    return hashlib.sha256(repr(database).encode()).digest()
