"""The load during one fault: a publisher of numbered tasks, workers that journal them, and the outcome."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environment.lifetime import Lifetime
from environment.testkit import children
from environment.testkit.journal_worker import JournalWorker, celery_command
from environment.waiting import wait_until

#: Seconds within which every task is done after a fault: a lease of 30 s, maintenance every 10 s, and a loaded machine.
RECOVERY_S = 120
#: Tasks a second, and how long each takes: a tenth of what two workers of four threads can do.
RATE, TASK_S = 40, 0.02


@dataclass(frozen=True)
class Published:
    """A task that the broker accepted: when (ns of CLOCK_MONOTONIC), and at which try."""

    at_ns: int
    tries: int


@dataclass
class Outcome:
    """What a fault cost.

    Attributes:
        tasks_in: how many tasks the broker accepted.
        tasks_out: how many of them finished at least once.
        begun_again: how many of them began more than once.
        finished_again: how many of them finished more than once.
        published_again: how many of the last their publisher sent again because it got no answer.
        fault_s: how long the fault lasted.  Of a repeated fault this and the next two are the longest.
        first_s: seconds from the end of the fault until the next task finished.
        all_s: seconds from the end of the fault until all tasks published by then had finished; 0 when they had
            already, None when they never did.
        notes: evidence that the fault happened, and other facts for the table.
    """

    fault: str
    system: str
    tasks_in: int
    tasks_out: int
    begun_again: int
    finished_again: int
    published_again: int
    fault_s: float
    first_s: float | None
    all_s: float | None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """How many tasks were accepted and never finished."""
        return self.tasks_in - self.tasks_out


class Load(Lifetime):
    """A context manager: workers and a publisher on one broker, stopped at its end.

    Args:
        variables: how ``environment.testkit.journal_app`` reaches the broker.
        python: the Python that runs it.
        system: the system's name in the table.
    """

    def __init__(
        self, variables: Mapping[str, str], *, python: str = sys.executable, system: str = "celery_postgres"
    ) -> None:
        self.variables = dict(variables)
        self.system = system
        self.workers: list[JournalWorker] = []
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.notes: dict[str, Any] = {}
        self._python = python
        self._stack = ExitStack()
        self._others: dict[str, subprocess.Popen[str]] = {}
        self._faults_ns: list[tuple[int, int]] = []

    # -- load

    def worker(
        self,
        pool: str = "threads",
        concurrency: int = 4,
        *,
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        ready: bool = True,
    ) -> JournalWorker:
        """Start a worker that acknowledges late.

        Args:
            pool: Celery's name of the pool.
            concurrency: how many tasks it runs at a time.
            before: words before its Python, such as ``ip netns exec NAME``.
            variables: further environment variables.
            arguments: further words for ``celery worker``.
            ready: whether to wait until it takes tasks.
        """
        worker = JournalWorker(
            celery_command(pool, concurrency, *arguments, python=(*before, self._python)),
            {**self.variables, **(variables or {})},
            late=True,
            prefetch=1,
            concurrency=concurrency,
            capacity=200_000,
            ready=ready,
        )
        self.workers.append(self._stack.enter_context(worker))
        return worker

    def publish(self, *, rate: float = RATE, seconds: float = TASK_S, countdown: float = 0.0) -> None:
        """Publish from now until ``finish``; return when the first tasks are done."""
        self._start("publisher", "-m", "tests.faults.publisher", "load", str(self.folder), rate, seconds, countdown)
        self.wait_for_tasks(10)

    def ask(self, timeout_s: float = RECOVERY_S) -> None:
        """Let a client send tasks and wait for their results, from now until ``finish``."""
        self._start("client", "-m", "tests.faults.publisher", "client", str(self.folder), timeout_s)
        wait_until(self.answers, RECOVERY_S, "an answer", 0.1)

    def beat(self) -> None:
        """Run a beat that sends a task to the queue ``TICKS`` each second."""
        words = ["--scheduler", "celery_postgres.beat:Scheduler", "-l", "WARNING", "--pidfile="]
        self._start("beat", "-m", "celery", "-q", "-A", "environment.testkit.journal_app", "beat", *words)

    def _start(self, name: str, *words: object) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            self._others[name] = children.spawn(
                [self._python, *map(str, words)],
                {**self.variables, "BENCH_BEAT": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if len(self._others) == 1:
            self._stack.callback(self.end_publishing)

    def end_publishing(self) -> None:
        """Stop what publishes and wait for its end; a second call does nothing."""
        (self.folder / "stop").touch()
        if (beat := self._others.get("beat")) is not None:
            beat.terminate()
        try:
            for process in self._others.values():
                process.wait(RECOVERY_S)
        finally:
            for process in self._others.values():
                process.kill()
                process.wait()

    def wait_for_tasks(self, count: int, deadline_s: float = RECOVERY_S) -> None:
        """Wait until ``count`` more tasks are done."""
        wanted = self.done() + count
        wait_until(lambda: self.done() >= wanted, deadline_s, f"{count} more tasks to be done{self._logs()}", 0.1)

    def wait_for_accepted(self, count: int, deadline_s: float = RECOVERY_S) -> None:
        """Wait until the broker has accepted ``count`` more tasks."""
        wanted = len(self.published()) + count
        wait_until(lambda: len(self.published()) >= wanted, deadline_s, f"{count} more tasks to be accepted", 0.1)

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Put around a fault: recovery is measured from the end of the block."""
        began = time.monotonic_ns()
        yield
        self._faults_ns.append((began, time.monotonic_ns()))

    # -- progress

    def published(self) -> dict[int, Published]:
        """Return the accepted tasks by number."""
        path = self.folder / "published"
        text = path.read_text() if path.exists() else ""
        lines = [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
        return {int(number): Published(int(at), int(tries)) for number, at, tries in lines}

    def answers(self) -> dict[str, float]:
        """Return what the client was answered: task id → the result."""
        path = self.folder / "answers"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return {line[0]: float(line[1]) for line in lines if len(line) > 1}

    def log_of(self, name: str) -> str:
        """Return what the ``publisher``, the ``client`` or the ``beat`` has logged."""
        return (self.folder / f"{name}.log").read_text()

    def refusals(self) -> int:
        """Return how many publishes failed."""
        return len(self.log_of("publisher").splitlines())

    def done(self) -> int:
        """Return how many times a task finished; one that finished twice counts twice."""
        return sum(map(len, self.ends().values()))

    def ends(self) -> dict[int, list[int]]:
        """Return when each task finished: number → ns of CLOCK_MONOTONIC, in order."""
        return self._times(1)

    def ended_ns(self) -> list[int]:
        """Return when tasks finished."""
        return [at for times in self.ends().values() for at in times]

    def accepted_ns(self) -> list[int]:
        """Return when the broker accepted tasks."""
        return [one.at_ns for one in self.published().values()]

    def begins(self) -> dict[int, list[int]]:
        """Return when each task began, in the same form."""
        return self._times(-1)

    def count_logged(self, words: str) -> int:
        """Return how often the logs of the workers contain these words."""
        return sum(worker.log_text().count(words) for worker in self.workers)

    # -- outcome

    def finish(self, fault: str, *, deadline_s: float = RECOVERY_S, patient: bool = True, more: int = 20) -> Outcome:
        """Publish ``more`` tasks, stop the publisher, and wait until all accepted tasks are done.

        Args:
            fault: its name in the table.
            deadline_s: how many seconds to wait.
            patient: whether a task that is not done by the deadline is an error; otherwise it counts as lost.
            more: how many tasks are still to be accepted.

        Raises:
            TimeoutError: when ``patient`` and a task is not done.
        """
        self.wait_for_accepted(more)
        self.end_publishing()
        published = self.published()
        try:
            wait_until(lambda: not published.keys() - self.ends().keys(), deadline_s, "all tasks to be done", 0.2)
        except TimeoutError:
            if patient:
                missing = sorted(published.keys() - self.ends().keys())
                raise TimeoutError(
                    f"{len(missing)} tasks are not done after {deadline_s:g} s: {missing[:10]}{self._logs()}"
                ) from None
        return self._outcome(fault, published)

    def _outcome(self, fault: str, published: dict[int, Published]) -> Outcome:
        ends = self.ends()
        recoveries = [self._recovery(ended, published, ends) for _, ended in self._faults_ns]
        firsts, alls = zip(*recoveries, strict=True)
        again = {number for number, times in ends.items() if len(times) > 1}
        return Outcome(
            fault=fault,
            system=self.system,
            tasks_in=len(published),
            tasks_out=len(published.keys() & ends.keys()),
            begun_again=sum(len(times) > 1 for times in self.begins().values()),
            finished_again=len(again),
            published_again=sum(published[number].tries > 1 for number in again if number in published),
            fault_s=round(max(ended - began for began, ended in self._faults_ns) / 1e9, 1),
            first_s=None if None in firsts else max(firsts),
            all_s=None if None in alls else max(alls),
            notes=self.notes,
        )

    def _recovery(
        self, ended: int, published: dict[int, Published], ends: dict[int, list[int]]
    ) -> tuple[float | None, float | None]:
        """Return the seconds from the end of a fault to the next end of a task, and to the end of the last task that
        had been published by then."""
        after = [at for times in ends.values() for at in times if at >= ended]
        waiting = [number for number, one in published.items() if one.at_ns <= ended]
        if not all(number in ends for number in waiting):
            last = None
        else:
            last = max(0.0, max((ends[number][0] for number in waiting), default=0) - ended) / 1e9
        return (min(after) - ended) / 1e9 if after else None, last

    # -- inside

    def _times(self, sign: int) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for worker in self.workers:
            worker.journal.refresh()
            for number, _, at in worker.journal.records:
                if number * sign > 0:
                    found[number * sign].append(at)
        return {number: sorted(times) for number, times in found.items()}

    def _logs(self) -> str:
        lines = Counter(line for worker in self.workers for line in worker.log_text().splitlines()[-20:])
        return "".join(f"\n  {line}" for line in lines)

    def open(self) -> None:
        """Nothing starts by itself."""

    def close(self) -> None:
        """Stop the publisher and the workers, and remove the files."""
        self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def busy(worker: JournalWorker) -> bool:
    """Whether a worker has run a few tasks and runs one now."""
    worker.journal.refresh()
    begun = sum(number < 0 for number, _, _ in worker.journal.records)
    return begun > 5 and begun * 2 > len(worker.journal.records)


def find_busy(workers: Mapping[str, JournalWorker]) -> str | None:
    """Return the name of a busy one of ``workers``.

    Wait for this where one of them could run all that is published: the worker that fell asleep last is woken first, so
    a given one may never run a task.
    """
    return next((name for name, worker in workers.items() if busy(worker)), None)
