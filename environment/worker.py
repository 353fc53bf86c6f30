"""Start a worker, run a block, stop the worker."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from environment.sources import python_path
from environment.waiting import wait_until
from environment.workerfile import WORKER_FILE, WorkerInfo, read_worker_file

#: The Celery application, as ``celery -A`` names it.
APPLICATION = "app.celery_app.celery_app"

#: Options that are added to the celery command unless the caller gives them: their names, and the words.
_DEFAULTS = (
    (("-P", "--pool"), ("-P", "solo")),
    (("-c", "--concurrency", "--autoscale"), ("-c", "1")),
    (("-l", "--loglevel"), ("--loglevel=INFO",)),
)


class WorkerError(Exception):
    """The worker ended or did not become ready; the text contains the end of its log."""


class WorkerProcess:
    """A Celery worker as a child process, in its own session.

    A context manager: inside, the worker is ready; afterwards it has drained and ended. On Linux it also drains when
    the process that started it dies in any way.

    Args:
        database_url: becomes DATABASE_URL.
        state: an existing folder for ``worker.json``, which the application writes when it is ready.
        log: the file for its output; None leaves it on the terminal.
        arguments: further words for ``celery worker``. ``-P solo``, ``-c 1`` and ``--loglevel=INFO`` are added unless
            given here.
        environment: further variables; the metrics port is 0 (any free one) unless given here.
        command: the words before ``worker``, for another application.
        folder: its working directory; None is ours.

    Example::

        with WorkerProcess(cluster.url(), state=folder, log=folder / "log") as worker:
            status, body = worker.info.get("/health")
    """

    def __init__(
        self,
        database_url: str,
        *,
        state: Path,
        log: Path | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-P", "-m", "environment.celery", "-A", APPLICATION),
        folder: Path | None = None,
    ) -> None:
        self.database_url = database_url
        self.file = state / WORKER_FILE
        self.log = log
        self.folder = folder
        self.command = [*command, "worker", *arguments, *_missing_defaults(arguments)]
        self.environment = {
            "CELERY_METRICS_PORT": "0",
            **(environment or {}),
            "DATABASE_URL": database_url,
            "CELERY_WORKER_FILE": str(self.file),
        }
        self._process: subprocess.Popen[bytes] | None = None

    # -- what it is

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child.

        Raises:
            WorkerError: before ``start``.
        """
        if self._process is None:
            raise WorkerError("the worker has not been started")
        return self._process

    @property
    def has_started(self) -> bool:
        """Whether there is, or was, a child."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def info(self) -> WorkerInfo:
        """The content of its worker file.

        Raises:
            WorkerError: it is not ready.
        """
        info = read_worker_file(self.file)
        if info is None or info.pid != self.pid:
            raise WorkerError(f"the worker is not ready{self._log_tail()}")
        return info

    @property
    def metrics_url(self) -> str:
        """Base URL of its HTTP pages; no slash at the end."""
        return self.info.metrics_url

    def is_ready(self) -> bool:
        """Whether its worker file exists and /readyz answers 200."""
        info = read_worker_file(self.file)
        return info is not None and info.pid == self.pid and info.is_ready()

    def log_text(self) -> str:
        """Everything that it has logged so far, if it has a log."""
        return self.log.read_text(errors="replace") if self.log is not None and self.log.exists() else ""

    # -- life

    def start(self) -> None:
        """Start it and return at once."""
        self.file.unlink(missing_ok=True)
        variables = {**os.environ, **self.environment}
        variables["PYTHONPATH"] = python_path(variables)
        with contextlib.ExitStack() as stack:
            output = None if self.log is None else stack.enter_context(self.log.open("ab"))
            self._process = subprocess.Popen(
                self.command,
                env=variables,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=drain_when_parent_dies(),
            )

    def wait_ready(self, deadline_s: float = 30) -> WorkerInfo:
        """Wait until it takes tasks.

        Raises:
            WorkerError: it ends first, or is not ready in time.
        """

        def settled() -> bool:
            return self.process.poll() is not None or self.is_ready()

        try:
            wait_until(settled, deadline_s, "the worker to be ready")
        except TimeoutError as error:
            raise WorkerError(f"{error}{self._log_tail()}") from None
        if self.process.returncode is not None:
            raise WorkerError(f"the worker ended with {self.process.returncode} before it was ready{self._log_tail()}")
        return self.info

    def stop(self, deadline_s: float = 30) -> int:
        """Send TERM, wait while it drains, and KILL it with all its children if that takes too long.

        Returns:
            its exit status, negative for a signal. Safe when it is already gone or never began.
        """
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                print(f"the worker did not drain in {deadline_s:g} s and was killed", file=sys.stderr)
                self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """Crash it: SIGKILL to it and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop(deadline_s=5)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _log_tail(self) -> str:
        lines = self.log_text().splitlines()[-20:]
        return "\n" + "\n".join(lines) if lines else ""


def _missing_defaults(arguments: Sequence[str]) -> list[str]:
    def given(names: Sequence[str]) -> bool:
        return any(
            word == name or word.startswith(f"{name}=" if name.startswith("--") else name)
            for word in arguments
            for name in names
        )

    return [word for names, words in _DEFAULTS if not given(names) for word in words]


def drain_when_parent_dies() -> Callable[[], None] | None:
    """For preexec_fn: let Linux send a TERM when the parent dies.

    For the kernel the parent is a *thread*, so this is left out when a helper thread starts the worker.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None).prctl
    parent, number = os.getpid(), int(signal.SIGTERM)

    def ask() -> None:
        prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), number)

    return ask
