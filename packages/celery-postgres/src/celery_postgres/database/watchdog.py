"""A server that acknowledges packets and says nothing: neither the kernel nor libpq ever gives up on one.

A proxy that lost its server is one, or a server whose disk hangs. Who waits for its answer waits in C, where no signal
handler runs. So another thread ends the connection of a statement that the server itself should have cancelled by then,
and sooner once this worker was told to stop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import signal
import socket
import threading
import time
import weakref
from typing import Protocol

from celery_postgres.compat.upstream import worker_state
from celery_postgres.database.per_process import PerProcess

logger = logging.getLogger(__name__)

#: Beyond `statement_timeout`, for the way and for a server that is busy.
GRACE_S = 5.0
#: For each statement, once this worker was told to stop.
HURRY_S = 5.0
TICK_S = 1.0
_STOP = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class Asking(Protocol):
    """What is watched.

    Attributes:
        dsn: where it is connected to.
        asked: when the statement was sent that is not answered yet, by the monotonic clock; else 0.
        patience: how long an answer may take, in seconds.
    """

    dsn: str
    asked: float
    patience: float

    def fileno(self) -> int: ...


class _State:
    """
    Attributes:
        silent: when a server was last found silent by a worker that is to stop, by its DSN.
        signals: the ends of the pipe to which Python writes signals.
    """

    def __init__(self) -> None:
        self.silent: dict[str, float] = {}
        self.watched: weakref.WeakSet[Asking] = weakref.WeakSet()
        self.lock = threading.RLock()  # reentrant, for signal handlers
        self.thread: threading.Thread | None = None
        self.signals: tuple[int, int] | None = None

    def leave_to_parent(self) -> None:
        if self.signals is not None:
            signal.set_wakeup_fd(-1)
            for end in self.signals:
                os.close(end)


_process = PerProcess(_State, _State.leave_to_parent)


def patience_of(statement_timeout: str) -> float:
    """How long the answer to a statement may take that the server cancels after so long."""
    found = re.fullmatch(r"\s*([\d.]+)\s*(us|ms|s|min|h|d|)\s*", statement_timeout)
    seconds = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    return seconds + GRACE_S if seconds else float("inf")


def watch(one: Asking) -> None:
    with _process.value.lock:
        _process.value.watched.add(one)


def hopeless(dsn: str) -> bool:
    """Whether a connection to this server is not worth trying: a worker that is to stop would wait for each."""
    return time.monotonic() - _process.value.silent.get(dsn, -HURRY_S) < HURRY_S


def start() -> None:
    """Where threads are no surprise: a process that only publishes has none of ours."""
    _mind_signals()
    state = _process.value
    with state.lock:
        if state.thread is None:
            state.thread = threading.Thread(target=_run, name="celery_postgres watchdog", daemon=True)
            state.thread.start()


def _mind_signals() -> None:
    """In a worker's main thread: have each signal written to a pipe, the moment it comes, unless that is in use."""
    if _process.value.signals is not None or worker_state() is None:
        return
    if threading.current_thread() is not threading.main_thread():
        return
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    others = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    if others != -1:
        signal.set_wakeup_fd(others)
        os.close(read)
        os.close(write)
        return
    _process.value.signals = read, write


def _run() -> None:
    hurried, before = False, time.monotonic()
    while True:
        hurried = _told_to_stop() or hurried
        now = time.monotonic()
        # After a moment in which nobody ran here (a stopped process), the answers may lie in the sockets.
        if now - before < 3 * TICK_S:
            with _process.value.lock:
                watched = list(_process.value.watched)
            for one in watched:
                asked = one.asked
                if asked and now - asked > (min(one.patience, HURRY_S) if hurried else one.patience):
                    if hurried:
                        _process.value.silent[one.dsn] = now
                    _cut(one, asked)
        before = now


def _told_to_stop() -> bool:
    """Wait for the next tick, or for a signal; whether there was one that ends this worker."""
    signals = _process.value.signals
    if signals is None:
        time.sleep(TICK_S)
        return False
    poller = select.poll()
    poller.register(signals[0], select.POLLIN)
    if not poller.poll(TICK_S * 1000):
        return False
    try:
        return not _STOP.isdisjoint(os.read(signals[0], 4096))
    except BlockingIOError:
        return False
    except OSError:  # a worker that is about to restart (HUP) has closed every descriptor
        time.sleep(TICK_S)
        return False


def _cut(one: Asking, asked: float) -> None:
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(one.fileno())) as peer:  # it may end just now
        if one.asked == asked:  # so the descriptor was still its own
            silent_s = time.monotonic() - asked
            logger.warning("the database has not answered for %.0f s: the connection is given up", silent_s)
            peer.shutdown(socket.SHUT_RDWR)
