"""``./dev worker``: a database, the migrations, a worker, and everything down again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from environment.checkout import make_state
from environment.database import database, describe, setting
from environment.errors import UserError
from environment.locking import FileLock
from environment.migration import upgrade
from environment.signals import ENDING, shell_status
from environment.worker import WorkerProcess
from environment.workerfile import SUPERVISOR_LOCK

_DEFAULT_PORT = 9540


def worker(arguments: Sequence[str]) -> int:
    """Run a worker until it is told to end; return its exit status.

    INT, TERM and QUIT are passed to it, each as often as it arrives; HUP becomes TERM.  The worker is in a
    session of its own, so a Ctrl-C reaches it only through us.
    """
    begun = time.monotonic()
    state = make_state()
    with FileLock(state / SUPERVISOR_LOCK) as lock:
        if not lock.try_exclusive():
            raise UserError("a worker of this checkout is already running (./dev status); ./dev down stops it")
        lock.path.write_text(f"{os.getpid()}\n")
        host, port = _metrics_address()
        with database(state) as url:
            upgrade(url)
            child = WorkerProcess(url, state=state, arguments=arguments, environment={"CELERY_METRICS_PORT": str(port)})
            _say(f"database {describe(url)}; worker on http://{host}:{port}/health and /metrics")
            return _supervise(child, begun)


def _supervise(child: WorkerProcess, begun: float) -> int:
    early: list[int] = []
    started = False

    def pass_on(number: int, _frame: FrameType | None) -> None:
        number = int(signal.SIGTERM) if number == signal.SIGHUP else number
        if started:
            child.process.send_signal(number)
        else:
            early.append(number)

    for number in ENDING:
        signal.signal(number, pass_on)
    child.start()
    started = True
    for missed in early:
        child.process.send_signal(missed)
    while child.process.poll() is None and not child.is_ready():
        try:
            child.process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    if child.process.poll() is None:
        _say(f"worker {child.pid} is ready after {time.monotonic() - begun:.1f} s; Ctrl-C drains and stops it")
    status = shell_status(child.process.wait())
    # Further signals have nobody to go to; what is left is to stop PostgreSQL, and that must not be cut short.
    for number in ENDING:
        signal.signal(number, lambda *_: None)
    child.file.unlink(missing_ok=True)
    return status


def _metrics_address() -> tuple[str, int]:
    """Where the worker will serve its pages: as configured, or 9540 if free, or any free port.

    :raises UserError: when the configured port is taken.
    """
    host = setting("CELERY_METRICS_ADDR") or "127.0.0.1"
    configured = setting("CELERY_METRICS_PORT")
    if configured is not None and not configured.isdigit():
        raise UserError("CELERY_METRICS_PORT must be a number")
    if configured is not None and int(configured) != 0:
        if _free(host, int(configured)) is None:
            raise UserError(f"CELERY_METRICS_PORT {configured} on {host} is in use; choose another, or 0 for any")
        return host, int(configured)
    wanted = _DEFAULT_PORT if configured is None else 0
    port = _free(host, wanted) or _free(host, 0)
    if port is None:
        raise UserError(f"CELERY_METRICS_ADDR {host} is not an address of this machine")
    return host, port


def _free(host: str, port: int) -> int | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the worker's own server does: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return None
        found: int = probe.getsockname()[1]
        return found


def _say(text: str) -> None:
    print(f"dev: {text}", file=sys.stderr, flush=True)
