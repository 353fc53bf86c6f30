"""``./dev worker``: start a database, run the migrations, run a worker, and stop everything again."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from environment.checkout import make_state, owner
from environment.database import connect, describe, served_database, setting
from environment.errors import UserError
from environment.kept import KeptCluster
from environment.locking import FileLock
from environment.migration import upgrade
from environment.naming import program, say
from environment.signals import ENDING, shell_status
from environment.worker import WorkerError, WorkerProcess
from environment.workerfile import SUPERVISOR_LOCK

_DEFAULT_PORT = 9540

#: Kept until this process ends.
_claims: list[socket.socket] = []

#: Seconds between two attempts to reach the database.
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0

#: Seconds between two checks of our own PostgreSQL.
_LOOK_S = 1.0


def worker(arguments: Sequence[str]) -> int:
    """Run a worker until it is told to end; return its exit status.

    Each signal is passed on once. TERM, HUP and the first Ctrl-C drain; QUIT and a second Ctrl-C also cancel the
    running task, which runs again later. A drained worker's status is 0.
    """
    begun = time.monotonic()
    # A script's shell starts its background processes with INT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    state = make_state()
    with the_only_one(state):
        port = metrics_port()
        with served_database(state) as (url, cluster):
            await_database(url, cluster)
            upgrade(url)
            child = WorkerProcess(url, state=state, arguments=arguments, environment={"CELERY_METRICS_PORT": str(port)})
            say(f"migrated {describe(url)}, starting the worker")
            return _supervise(child, cluster, begun)


@contextmanager
def the_only_one(state: Path) -> Iterator[None]:
    """Within the block this process is the only one that runs a worker for the checkout, and ``./dev down`` finds it.

    Raises:
        UserError: there is one already.
    """
    with FileLock(state / SUPERVISOR_LOCK) as lock:
        if not lock.try_exclusive():
            raise UserError(f"a worker of {owner()} is already running ({program()} status); {program()} down stops it")
        lock.path.write_text(f"{os.getpid()}\n")
        yield


def await_database(url: str, cluster: KeptCluster | None) -> None:
    """Return when the database accepts connections; until then print why it does not, at growing intervals.

    The worker does the same: a database that starts later, or restarts, is no reason to end.
    """
    delay_s = _FIRST_DELAY_S
    while True:
        try:
            connect(url).close()
        except UserError as error:
            say(f"{error}; next try in {delay_s:g} s")
            threading.Event().wait(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            _revive(cluster)
        else:
            return


def _revive(cluster: KeptCluster | None) -> bool:
    """Start our own PostgreSQL if it has crashed; report that, and return whether it now runs."""
    try:
        if cluster is not None and cluster.revive():
            say("PostgreSQL had ended and was restarted")
    except (UserError, TimeoutError) as error:
        say(f"PostgreSQL has ended: {error}")
        return False
    return True


@contextmanager
def kept_running(cluster: KeptCluster | None) -> Iterator[None]:
    """Start our own PostgreSQL again whenever it crashes: the worker waits for it, and no other command may be
    running.
    """
    ended = threading.Event()

    def watch() -> None:
        delay_s = _LOOK_S
        while not ended.wait(delay_s):
            delay_s = _LOOK_S if _revive(cluster) else min(2 * delay_s, _LONGEST_DELAY_S)

    watcher = threading.Thread(target=watch, name="postgresql", daemon=True)
    if cluster is not None:
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if cluster is not None:
            watcher.join()


def _supervise(child: WorkerProcess, cluster: KeptCluster | None, begun: float) -> int:
    early: list[int] = []
    started = interrupted = False

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        # Not INT itself: Celery drains on it as on TERM, but then exits with 1 as if it had failed.
        meant = signal.SIGTERM
        if number == signal.SIGQUIT or (number == signal.SIGINT and interrupted):
            meant = signal.SIGQUIT
        elif number == signal.SIGINT:
            interrupted = True
            say("draining; Ctrl-C again cancels the running task")
        if started:
            child.process.send_signal(meant)
        else:
            early.append(meant)

    for number in ENDING:
        signal.signal(number, pass_on)
    child.start()
    started = True
    for missed in early:
        child.process.send_signal(missed)
    with kept_running(cluster):
        while child.process.poll() is None and not child.is_ready():
            try:
                child.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        with suppress(WorkerError):  # it may be gone again
            ready = f"{time.monotonic() - begun:.1f} s: {child.metrics_url}/health and /metrics"
            say(f"worker ready after {ready}; Ctrl-C drains and stops it")
        status = shell_status(child.process.wait())
        # No process is left for further signals. Only PostgreSQL remains to be stopped, and that must not be
        # interrupted.
        for number in ENDING:
            signal.signal(number, lambda *_: None)
    child.file.unlink(missing_ok=True)
    return status


def metrics_port() -> int:
    """The port for the worker's pages: the configured one, otherwise 9540 if it is free, otherwise 0 (the worker takes
    any).

    Raises:
        UserError: the configured port is taken or is not a port, or the address is not one of this machine.
    """
    host = setting("CELERY_METRICS_ADDR") or "127.0.0.1"
    configured = setting("CELERY_METRICS_PORT")
    if configured is None:
        return _DEFAULT_PORT if is_free(host, _DEFAULT_PORT) and _claimed_default_port() else 0
    if not (configured.isascii() and configured.isdigit() and int(configured) < 65536):
        raise UserError("CELERY_METRICS_PORT must be a number from 0 to 65535")
    if not is_free(host, int(configured)):
        raise UserError(f"CELERY_METRICS_PORT {configured} on {host} is in use; choose another, or 0 for any")
    return int(configured)


def _claimed_default_port() -> bool:
    """Whether no other ``./dev worker`` of this machine has taken, or is about to take, the default port.

    Two that start at the same moment both see it free. A name in Linux's abstract socket namespace belongs to one of
    them, and only while that process lives; like a port, it is one per network namespace.
    """
    if sys.platform != "linux":
        return True
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0skeldir-port-{_DEFAULT_PORT}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As in the worker's own server: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"cannot listen on CELERY_METRICS_ADDR {host}, port {port}: {error.strerror}") from None
            return False
        return True
