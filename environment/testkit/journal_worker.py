"""A worker process of any task queue whose tasks write a journal."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from environment.lifetime import Lifetime
from environment.testkit import children
from environment.testkit.journal import JournalReader
from environment.waiting import wait_until


def celery_command(
    pool: str, concurrency: int, *arguments: str, python: Sequence[str] = (sys.executable,)
) -> list[str]:
    """The command line of Celery's own worker on ``environment.testkit.journal_app``.

    Args:
        arguments: further words for ``celery worker``.
        python: the Python that runs it, and what stands before it.
    """
    # PGMQ allows queue names of 47 characters, and the queue of remote control contains this name.
    name = f"{secrets.token_hex(4)}@bench"
    return [
        *python,
        # Root may run it: nothing is unpickled.
        *("-W", "ignore:You're running the worker with superuser"),
        *("-m", "celery", "-q", "-A", "environment.testkit.journal_app", "worker", "-P", pool, "-c", str(concurrency)),
        *("-l", "WARNING", "-n", name, *arguments),
    ]


class JournalWorker(Lifetime):
    """A context manager: one worker process and the records of its tasks.

    Args:
        command: its command line, such as ``celery_command`` returns.
        variables: how it reaches the broker.
        late: acknowledge a task when it has ended (Celery's programs only).
        prefetch: ``worker_prefetch_multiplier`` (Celery's programs only).
        concurrency: how many tasks it runs at a time.
        capacity: how many records one of its processes writes at most.
        ready: whether the block begins only when it takes tasks.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        late: bool = False,
        prefetch: int = 4,
        concurrency: int = 1,
        capacity: int = 100_000,
        ready: bool = True,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-worker-"))
        self.log = self.folder / "log"
        self.journal = JournalReader(self.folder)
        self._wait = ready
        self._command = command
        self._variables = {
            **variables,
            "BENCH_ACKS_LATE": "1" if late else "",
            "BENCH_PREFETCH": str(prefetch),
            "BENCH_CONCURRENCY": str(concurrency),
            "BENCH_CAPACITY": str(capacity),
            "BENCH_JOURNAL": str(self.folder),
            "BENCH_READY": str(self.folder / "ready"),
        }
        self._process: subprocess.Popen[str] | None = None

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
        """What it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def is_ready(self) -> bool:
        """Whether it takes tasks.

        Raises:
            RuntimeError: when it has ended.
        """
        return self.is_running() and (self.folder / "ready").exists()

    def ready_ns(self) -> int:
        """When it began to take tasks, by the journal's clock.  Some fetch tasks before they listen for new ones."""
        begun = self.folder / "ready.begun"
        modified_ns = (begun if begun.exists() else self.folder / "ready").stat().st_mtime_ns
        return modified_ns - time.time_ns() + time.monotonic_ns()

    def is_running(self) -> bool:
        """Return True.

        Raises:
            RuntimeError: when it has ended; the text is the end of its log.
        """
        if self.process.poll() is not None:
            raise RuntimeError(f"the worker ended with {self.process.returncode}:\n{self.log_text()[-2000:]}")
        return True

    def run_until(self, count: int, limit_s: float) -> int:
        """Wait until it has written ``count`` records, for ``limit_s`` seconds at most; return how many it has."""
        with suppress(TimeoutError):
            wait_until(lambda: self.is_running() and self.journal.refresh() >= count, limit_s, "tasks")
        return self.journal.refresh()

    def kill(self) -> None:
        """Send SIGKILL to it and to its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def open(self) -> None:
        """Start it."""
        with self.log.open("wb") as log:
            self._process = children.spawn(self._command, self._variables, stdout=log, stderr=subprocess.STDOUT)
        if self._wait:
            wait_until(self.is_ready, 60, "the worker to be ready")

    def close(self) -> None:
        """Send TERM, and KILL to what still runs 15 s later."""
        try:
            if self._process is not None:
                self.process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(15)
                self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
