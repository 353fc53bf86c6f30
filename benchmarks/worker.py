"""A Celery worker process that is measured."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from benchmarks import processes
from benchmarks.journal import JournalReader
from environment.waiting import wait_until


class Reached(Protocol):
    """A broker, as far as a worker is concerned.

    :ivar variables: what a child needs to reach it.
    """

    variables: dict[str, str]


def celery(
    pool: str, concurrency: int, name: str, *arguments: str, python: Sequence[str] = (sys.executable,)
) -> list[str]:
    """The command line of Celery's own worker on ``benchmarks.program``.

    :param name: no other worker of the broker has it.
    :param python: its Python, and what stands before it.
    """
    return [
        *python,
        # It may run as root here: nothing can be unpickled.
        *("-W", "ignore:You're running the worker with superuser"),
        *("-m", "celery", "-q", "-A", "benchmarks.program", "worker", "-P", pool, "-c", str(concurrency)),
        *("-l", "WARNING", "-n", f"{name}@bench", *arguments),
    ]


class Worker:
    """A context manager: one worker, solo unless told otherwise, log level WARNING.

    :param capacity: the most tasks that one of its processes writes down.
    :param prefetch: ``worker_prefetch_multiplier``.
    :param ready: whether to wait until it takes tasks.
    :param command: what to run instead of Celery's own worker program, with its Python or Node.
    :param python: the Python of Celery's own, and what stands before it.
    """

    def __init__(
        self,
        broker: Reached,
        *,
        late: bool = False,
        prefetch: int = 4,
        capacity: int = 100_000,
        pool: str = "solo",
        concurrency: int = 1,
        ready: bool = True,
        arguments: Sequence[str] = (),
        command: Sequence[str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-worker-"))
        self.log = self.folder / "log"
        self.journal = JournalReader(self.folder)
        self._wait = ready
        self._variables = {
            **broker.variables,
            "BENCH_ACKS_LATE": "1" if late else "",
            "BENCH_PREFETCH": str(prefetch),
            "BENCH_CONCURRENCY": str(concurrency),
            "BENCH_CAPACITY": str(capacity),
            "BENCH_JOURNAL": str(self.folder),
            "BENCH_READY": str(self.folder / "ready"),
        }
        name = self.folder.name.rsplit("-", 1)[1]
        self._command = command or celery(pool, concurrency, name, *arguments, python=python)
        self._process: subprocess.Popen[str] | None = None
        #: What it had said when it was stopped.
        self.last_words = ""

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process, inside the block."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log_text(self) -> str:
        """What it has said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def is_ready(self) -> bool:
        """Whether it takes tasks.

        :raises RuntimeError: when it has ended.
        """
        return self.is_running() and (self.folder / "ready").exists()

    def ready_ns(self) -> int:
        """When it began to take tasks, by the clock of the journal; some fetch before they are ready for new ones."""
        begun = self.folder / "ready.begun"
        return (
            (begun if begun.exists() else self.folder / "ready").stat().st_mtime_ns
            - time.time_ns()
            + time.monotonic_ns()
        )

    def is_running(self) -> bool:
        """True.

        :raises RuntimeError: with the end of its log, when it has ended.
        """
        if self.process.poll() is not None:
            raise RuntimeError(f"the worker ended with {self.process.returncode}:\n{self.log_text()[-2000:]}")
        return True

    def run_until(self, count: int, limit_s: float) -> int:
        """Wait until that many tasks have been written down, or for so long; return how many were."""
        with suppress(TimeoutError):
            wait_until(lambda: self.is_running() and self.journal.refresh() >= count, limit_s, "tasks")
        return self.journal.refresh()

    def kill(self) -> None:
        """``kill -9``, its children too."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = processes.spawn(self._command, self._variables, stdout=log, stderr=subprocess.STDOUT)
        try:
            if self._wait:
                wait_until(self.is_ready, 60, "the worker to be ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()
            self.last_words = self.log_text()
            shutil.rmtree(self.folder, ignore_errors=True)
