"""The field of one fault: a load of numbered tasks, workers that write down what they do, and the verdict."""

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
from types import TracebackType
from typing import Any, Self

from benchmarks import processes
from benchmarks.worker import Worker
from environment.waiting import wait_until

#: Seconds after a fault until everything is done: a lease of 30 s, a sweep of 10 s, and a loaded machine.
RECOVERY_S = 120
#: Tasks a second, and how long each takes: two workers of four threads have ten times that to give.
RATE, TASK_S = 40, 0.02


@dataclass(frozen=True)
class Published:
    """A task that was accepted: when (ns of CLOCK_MONOTONIC), and at which try."""

    at_ns: int
    tries: int


@dataclass
class Outcome:
    """What a fault cost.

    :ivar tasks_in: accepted by the broker.
    :ivar tasks_out: of these, finished at least once.
    :ivar begun_again: of these, begun more than once.
    :ivar finished_again: of these, finished more than once.
    :ivar published_again: of the last, those whose publisher got no answer and sent them again.
    :ivar fault_s: how long the fault lasted; of a fault that came several times, as the next two, the longest.
    :ivar first_s: seconds from the end of the fault to the next end of a task.
    :ivar all_s: seconds from the end of the fault until everything was done that had been published by then; 0 when
        that was so already, None when it never was.
    :ivar noted: what shows that the fault happened, and what else is worth knowing.
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
    noted: dict[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Accepted, and never finished."""
        return self.tasks_in - self.tasks_out


class Field:
    """A context manager: workers and a publisher on one broker.  All are gone afterwards.

    :param variables: how ``benchmarks.program`` reaches the broker.
    :param python: the Python that runs it.
    :param system: whose broker it is, in the table.
    """

    def __init__(
        self, variables: Mapping[str, str], *, python: str = sys.executable, system: str = "celery_postgres"
    ) -> None:
        self.variables = dict(variables)
        self.system = system
        self.workers: list[Worker] = []
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.noted: dict[str, Any] = {}
        self._python = python
        self._stack = ExitStack()
        self._publisher: subprocess.Popen[str] | None = None
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
    ) -> Worker:
        """Start a worker with late acknowledgements.

        :param before: what stands before its Python, such as ``ip netns exec NAME``.
        :param variables: what it needs besides the field's own.
        """
        reached = _Reached({**self.variables, **(variables or {})})
        worker = Worker(
            reached,
            late=True,
            prefetch=1,
            capacity=200_000,
            pool=pool,
            concurrency=concurrency,
            ready=ready,
            arguments=arguments,
            python=(*before, self._python),
        )
        self.workers.append(self._stack.enter_context(worker))
        return worker

    def publish(self, *, rate: float = RATE, seconds: float = TASK_S, countdown: float = 0.0) -> None:
        """Begin to publish, until ``finish``; return when the first tasks are done."""
        with (self.folder / "publisher.log").open("w") as log:
            words = ["load", str(self.folder), str(rate), str(seconds), str(countdown)]
            self._publisher = processes.spawn(
                [self._python, "-m", "tests.faults.publisher", *words],
                self.variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._stack.callback(self.end_publishing)
        self.progress(10)

    def end_publishing(self) -> None:
        """Stop the publisher, and wait for its end. Harmless when done twice."""
        (self.folder / "stop").touch()
        if self._publisher is not None:
            try:
                self._publisher.wait(RECOVERY_S)
            finally:
                self._publisher.kill()
                self._publisher.wait()

    def progress(self, count: int, deadline_s: float = RECOVERY_S) -> None:
        """Wait until so many more tasks are done."""
        wanted = self.done() + count
        wait_until(lambda: self.done() >= wanted, deadline_s, f"{count} more tasks to be done{self._logs()}", 0.1)

    def accepted(self, count: int, deadline_s: float = RECOVERY_S) -> None:
        """Wait until so many more tasks are accepted."""
        wanted = len(self.published()) + count
        wait_until(lambda: len(self.published()) >= wanted, deadline_s, f"{count} more tasks to be accepted", 0.1)

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Around a fault: from its end on, recovery is measured."""
        began = time.monotonic_ns()
        yield
        self._faults_ns.append((began, time.monotonic_ns()))

    # -- what is known so far

    def published(self) -> dict[int, Published]:
        """The tasks that were accepted, by number."""
        path = self.folder / "published"
        text = path.read_text() if path.exists() else ""
        lines = [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
        return {int(number): Published(int(at), int(tries)) for number, at, tries in lines}

    def refused(self) -> int:
        """How often the publisher was refused."""
        return len((self.folder / "publisher.log").read_text().splitlines())

    def done(self) -> int:
        """How many tasks were done, those that were done twice counted twice."""
        return sum(map(len, self.ends().values()))

    def ends(self) -> dict[int, list[int]]:
        """When each task was done: number → ns of CLOCK_MONOTONIC, in order."""
        return self._moments(1)

    def begins(self) -> dict[int, list[int]]:
        """The same for when it was begun."""
        return self._moments(-1)

    def logged(self, words: str) -> int:
        """How often the workers' logs hold these words."""
        return sum(worker.log_text().count(words) for worker in self.workers)

    # -- the verdict

    def finish(self, fault: str, *, deadline_s: float = RECOVERY_S, patient: bool = True, more: int = 20) -> Outcome:
        """Publish on for ``more`` tasks, stop, and wait until all that was accepted is done.

        :param patient: whether a task that is not done by the deadline is an error; else it is counted.
        """
        self.accepted(more)
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
        again = {number for number, moments in ends.items() if len(moments) > 1}
        return Outcome(
            fault=fault,
            system=self.system,
            tasks_in=len(published),
            tasks_out=len(published.keys() & ends.keys()),
            begun_again=sum(len(moments) > 1 for moments in self.begins().values()),
            finished_again=len(again),
            published_again=sum(published[number].tries > 1 for number in again if number in published),
            fault_s=round(max(ended - began for began, ended in self._faults_ns) / 1e9, 1),
            first_s=None if None in firsts else max(firsts),
            all_s=None if None in alls else max(alls),
            noted=self.noted,
        )

    def _recovery(
        self, ended: int, published: dict[int, Published], ends: dict[int, list[int]]
    ) -> tuple[float | None, float | None]:
        """Seconds from the end of one fault to the next task, and to the last that had been published by then."""
        after = [at for moments in ends.values() for at in moments if at >= ended]
        waiting = [number for number, one in published.items() if one.at_ns <= ended]
        if not all(number in ends for number in waiting):
            last = None
        else:
            last = max(0.0, max((ends[number][0] for number in waiting), default=0) - ended) / 1e9
        return (min(after) - ended) / 1e9 if after else None, last

    # -- inside

    def _moments(self, sign: int) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for worker in self.workers:
            worker.journal.refresh()
            for number, _, at in worker.journal.records:
                if number * sign > 0:
                    found[number * sign].append(at)
        return {number: sorted(moments) for number, moments in found.items()}

    def _logs(self) -> str:
        said = Counter(line for worker in self.workers for line in worker.log_text().splitlines()[-20:])
        return "".join(f"\n  {line}" for line in said)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def busy(worker: Worker) -> bool:
    """Whether a worker has done something, and runs a task now."""
    worker.journal.refresh()
    begun = sum(number < 0 for number, _, _ in worker.journal.records)
    return begun > 5 and begun * 2 > len(worker.journal.records)


@dataclass(frozen=True)
class _Reached:
    """A broker, as far as a worker is concerned."""

    variables: dict[str, str]
