"""Ends connections to a server that acknowledges packets and answers nothing: the kernel and libpq never give up on it.

A proxy that lost its server does that, or a server whose disk hangs. A thread that waits for the answer waits in C,
where no signal handler runs. So another thread ends the connection of a statement that the server should have cancelled
by then, and sooner once this worker was told to stop.
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

#: Added to `statement_timeout`, for the network and for a busy server.
GRACE_S = 5.0
#: The limit for each statement once this worker was told to stop.
STOPPING_S = 5.0
TICK_S = 1.0
_STOP = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class Watched(Protocol):
    """A session.

    Attributes:
        dsn: the server that it is connected to.
        asked: when the statement was sent whose answer is pending, by the monotonic clock; otherwise 0.
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
        self.watched: weakref.WeakSet[Watched] = weakref.WeakSet()
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
    """How long an answer may take, in seconds, if the server cancels statements after `statement_timeout`."""
    found = re.fullmatch(r"\s*([\d.]+)\s*(us|ms|s|min|h|d|)\s*", statement_timeout)
    seconds = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    return seconds + GRACE_S if seconds else float("inf")


def watch(one: Watched) -> None:
    with _process.value.lock:
        _process.value.watched.add(one)


def hopeless(dsn: str) -> bool:
    """Whether connecting to this server is not worth an attempt: a worker that is to stop would wait for each."""
    return time.monotonic() - _process.value.silent.get(dsn, -STOPPING_S) < STOPPING_S


def start() -> None:
    """Start the thread, once. Only in processes that consume or wait: one that only publishes has no thread of ours."""
    _watch_signals()
    state = _process.value
    with state.lock:
        if state.thread is None:
            state.thread = threading.Thread(target=_run, name="celery_postgres watchdog", daemon=True)
            state.thread.start()


def _watch_signals() -> None:
    """Have Python write each signal to a pipe at once, in a worker's main thread, unless the program does that."""
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
    stopping, before = False, time.monotonic()
    while True:
        stopping = _told_to_stop() or stopping
        now = time.monotonic()
        # After a pause of this process (SIGSTOP), the answers may lie in the sockets.
        if now - before < 3 * TICK_S:
            with _process.value.lock:
                watched = list(_process.value.watched)
            for one in watched:
                asked = one.asked
                if asked and now - asked > (min(one.patience, STOPPING_S) if stopping else one.patience):
                    if stopping:
                        _process.value.silent[one.dsn] = now
                    _cut(one, asked)
        before = now


def _told_to_stop() -> bool:
    """Wait for the next tick, or for a signal; whether a signal came that stops this worker."""
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


def _cut(one: Watched, asked: float) -> None:
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(one.fileno())) as peer:  # it may end just now
        if one.asked == asked:  # so the descriptor was still its own
            silent_s = time.monotonic() - asked
            logger.warning("The database has not answered for %.0f s; closing the connection", silent_s)
            peer.shutdown(socket.SHUT_RDWR)
