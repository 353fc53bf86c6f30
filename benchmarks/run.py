"""A run: its systems, its samples, and how samples are made."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.figures import middle
from benchmarks.pace import Question, begin_again, deadline, expected, minutes
from benchmarks.samples import Samples
from benchmarks.systems import Broker, System
from environment.testkit import measuring
from environment.testkit.journal_worker import JournalWorker

if TYPE_CHECKING:
    from benchmarks.cells import Cell

#: What Celery itself costs, and what psycopg2 and PostgreSQL allow: no task queues.
CEILINGS = ("memory", "psycopg2-one", "psycopg2-batch")

#: The systems in PostgreSQL that are watched over minutes.
OVER_TIME = ("ours", "stock", "pgqueuer", "procrastinate")


#: How often a sample is tried that fails; then the page says so.
_TRIES = 2


@dataclass(frozen=True)
class Run:
    """What a cell is given.

    Attributes:
        quick: minutes instead of hours.
        systems: by name; a system that lacks something is absent.
        samples: what has been measured so far.
        until: the monotonic time at which it must have ended: a sample that would take longer is not begun.
    """

    quick: bool
    systems: dict[str, System]
    samples: Samples
    until: float = float("inf")

    def present(self, *names: str) -> list[str]:
        """Return the named systems that are there."""
        return [name for name in names if name in self.systems]

    def that(self, ability: str) -> list[str]:
        """Return the systems that have an ability: ``results``, ``late``, ``prefork`` or ``chords``."""
        return [name for name, system in self.systems.items() if getattr(system, ability)]

    def peers(self, *, ceilings: bool = False, once: bool = False) -> list[str]:
        """Return all systems, RabbitMQ only once.

        Args:
            ceilings: include the loops that do less than a task queue must.
            once: Redis only once, too.
        """
        again = ("rabbitmq-db", "rabbitmq-confirm", *(("redis-always",) if once else ()))
        return [name for name in self.systems if name not in again and (ceilings or name not in CEILINGS)]

    def pick(self, quick: float, full: float) -> float:
        """Return one of two amounts."""
        return quick if self.quick else full

    def known(self, cell: str, variant: str, key: str, otherwise: float) -> float:
        """Return the median of what an earlier cell of this run measured."""
        return middle(self.samples.of(cell), variant, key) or otherwise

    def meter(self, system: System, *workers: JournalWorker) -> measuring.Meter:
        """Start to meter the processor time of the workers, the system's server, this process and all others."""
        pids = [worker.pid for worker in workers]
        return measuring.Meter({"worker": pids, "server": system.pids(), "harness": [os.getpid()]})


def worker_of(
    broker: Broker,
    concurrency: int,
    capacity: int,
    *,
    ready: bool = False,
    late: bool = False,
    pool: str | None = None,
) -> JournalWorker:
    """Return a worker process of a system.

    Args:
        broker: of the system.
        concurrency: how many tasks it runs at a time.
        capacity: how many records one of its processes writes at most.
        ready: whether to wait until it takes tasks.
        late: of Celery: acknowledge a task when it has ended.
        pool: of Celery: another pool than the usual one.
    """
    command = broker.worker(concurrency, pool)
    return JournalWorker(command, broker.variables, concurrency=concurrency, capacity=capacity, ready=ready, late=late)


def operations_each(before: int | None, after: int | None, tasks: int) -> float | None:
    """Return the transactions or commands per task, from two readings of ``Broker.operations``."""
    return None if before is None or after is None or not tasks else (after - before) / tasks


def distinct(worker: JournalWorker) -> dict[str, int]:
    """Return how many tasks a worker that has ended ran, and how many of them again."""
    worker.journal.refresh()
    numbers = [number for number, _, _ in worker.journal.records]
    return {"tasks": len(numbers), "duplicates": len(numbers) - len(set(numbers))}


def waiting(broker: Broker) -> int | None:
    """Return ``Broker.waiting``, or None if the server does not answer any more."""
    with suppress(Exception):
        return broker.waiting()
    return None


class Feeder:
    """Keeps ``backlog`` tasks in a queue by the worker's journal, without asking the server.

    Attributes:
        given: how many tasks it has added so far.
    """

    #: Tasks that it adds at once.
    _STEP = 500

    def __init__(self, broker: Broker, backlog: int) -> None:
        self._broker = broker
        self._backlog = backlog
        self.given = 0

    def fill(self, count: int | None = None) -> None:
        """Fill the queue before a worker starts: to its length, or by ``count`` more."""
        more = self._backlog - self.given if count is None else count
        self._broker.fill(self.given + 1, more)
        self.given += more

    def feed(self, worker: JournalWorker, seconds: float) -> None:
        """Replace what the worker takes, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and worker.is_running():
            missing = self._backlog - (self.given - worker.journal.refresh())
            if missing < min(self._STEP, self._backlog // 2):
                time.sleep(0.02)
                continue
            self._broker.fill(self.given + 1, missing)
            self.given += missing


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        failed: samples that could not be made.
        left: questions for which there was no time.
    """

    failed: int = 0
    left: list[Question] = field(default_factory=list)


def missing(cells: Sequence[Cell], run: Run, *, page: bool = False) -> list[tuple[Cell, str, int]]:
    """Return the samples that are not there: cell, variant, and which one.

    Round by round, in each of them cell by cell and variant by variant: neighbors can be compared, and a run that is
    cut short has something of everything.

    Args:
        cells: what is asked.
        run: of what; what a system cannot do by its ``skips``, and what has failed twice, is left out.
        page: in those variants alone that the page shows.
    """
    made = {cell.name: run.samples.of(cell.name) for cell in cells}
    failed = {name for name, found in run.samples.failures().items() if found["times"] >= _TRIES}
    found = []
    for repetition in range(1 if run.quick else max((cell.repetitions for cell in cells), default=0)):
        for cell in cells:
            if repetition >= (1 if run.quick else cell.repetitions):
                continue
            for variant in cell.asked(run, page=page):
                if len(made[cell.name].get(variant, [])) > repetition or f"{cell.name} {variant}" in failed:
                    continue
                found.append((cell, variant, repetition))
    return found


def measure(cells: Sequence[Cell], run: Run, *, page: bool = False, **about: Any) -> Outcome:
    """Make the samples that are missing.

    Args:
        cells: what is asked.
        run: on what.
        page: in those variants alone that the page shows.
        about: kept with each sample.
    """
    outcome = Outcome()
    tried = 0
    # What failed is tried once more, after all others.
    while tried < _TRIES and (questions := missing(cells, run, page=page)):
        tried += 1
        took_s = run.samples.took_s()
        names = [(cell.name, variant) for cell, variant, _ in questions]
        print(f"bench: {len(names)} samples to make, about {minutes(names, took_s):.0f} minutes", flush=True)
        outcome.failed = 0
        for position, (cell, variant, repetition) in enumerate(questions):
            if time.monotonic() + expected(names[position], took_s) > run.until:
                outcome.left = names[position:]
                return outcome
            outcome.failed += not sample(cell, run, variant, repetition, **about)
            took_s = run.samples.took_s()
    return outcome


def sample(cell: Cell, run: Run, variant: str, repetition: int, **about: Any) -> bool:
    """Make a sample, unless there are more than ``repetition`` of its variant; return whether there is one."""
    if len(run.samples.of(cell.name).get(variant, [])) > repetition:
        return True
    load = measuring.wait_calm(2)
    began = time.monotonic()

    def give_up() -> None:
        print(f"{cell.name} {variant}: hangs; what it has started is killed, and the run begins again", flush=True)
        run.samples.fail(cell.name, variant, "it hung")
        begin_again(sys.argv[1:], run.until, lambda: measuring.tree([os.getpid()]))

    try:
        with deadline(cell.deadline_s, give_up):
            result = cell.sample(run, variant)
    except Exception as error:
        # One that fails must not cost the figures of the others; the run tries again at its end.
        print(f"{cell.name} {variant}: failed\n{traceback.format_exc()}", flush=True)
        run.samples.fail(cell.name, variant, str(error).strip().splitlines()[0][:200] if str(error) else repr(error))
        return False
    seconds = round(time.monotonic() - began, 1)
    run.samples.add(cell.name, variant, result, **about, quick=run.quick, others_before=load, took_s=seconds)
    figures = {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in result.items()
        if value and not isinstance(value, (list, dict))
    }
    print(f"{cell.name} {variant} ({seconds:.0f} s, others {load:.0%}): {figures}", flush=True)
    return True
