"""The systems that are compared, and what is asked of each.

**Declare a system**: subclass ``System`` and ``Broker`` in a module of this package, and add a line to
``systems/registry.py``.  A system publishes and works by a *program* of its own, in Python (``benchmarks/programs``) or
Node (``benchmarks/node``), with two commands:

``PROGRAM worker``
    One process that works until TERM.  It creates the file ``BENCH_READY`` when it takes tasks (and before that
    ``BENCH_READY`` with ``.begun``, if it fetches some before it listens for new ones), writes at most
    ``BENCH_CAPACITY`` records into a journal in the folder ``BENCH_JOURNAL`` (``environment.testkit.journal``), and
    runs ``BENCH_CONCURRENCY`` tasks at a time.  The task of every system is ``work(number, seconds, padding)``: sleep
    for so long (not at all if 0), then write the record ``(number, start, end)``.

``PROGRAM publish MODE …``
    The last line of its output is JSON.  ``SIZE`` is the length of the padding in characters.

    ``one_by_one FIRST COUNT LIMIT_S SIZE``
        As fast as the documented call for one task is, after 200 warm-up calls, until COUNT or LIMIT_S:
        ``{"published": n, "seconds": s, "rate": n/s, "cpu_s": own processor time}``.
    ``in_bulk FIRST COUNT LIMIT_S SIZE SECONDS``
        The same with the documented call for many tasks, 1,000 at a time; ``null`` where there is none.
        Each task takes SECONDS.
    ``paced FIRST COUNT SHORTEST_S LONGEST_S``
        One by one with a random pause before each: ``[[number, begin_ns, end_ns], …]`` of the calls.  20 calls before
        them, which take the first numbers, are not listed.
    ``steady FIRST RATE SECONDS``
        One by one on a schedule of RATE a second that does not wait for late calls: the same list, with the time at
        which the call was due as ``begin_ns``.
    ``together FIRST BEGIN SECONDS``
        One by one for SECONDS, from BEGIN on by the monotonic clock: as ``one_by_one``, and ``late_s``, how long after
        BEGIN it began.  Python's programs alone.

Both find the server in ``BENCH_BROKER``; with ``BENCH_RESULTS=1`` the results of tasks (their number) are stored.
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

from environment.temporary import TemporaryCluster
from environment.testkit.children import answer, spawn


class Broker(ABC):
    """An empty broker of a system, on which one sample is made.

    Attributes:
        variables: what its programs need in their environment.
        program: the command line of its program, without the command.
    """

    variables: dict[str, str]
    program: Sequence[str]

    def worker(self, concurrency: int, pool: str | None = None) -> list[str]:
        """Return the command line of a worker process that runs ``concurrency`` tasks at a time.

        Args:
            concurrency: see ``System``.
            pool: of Celery: another pool than the usual one.
        """
        return [*self.program, "worker"]

    def publish(self, mode: str, *arguments: object, timeout_s: float = 300) -> Any:
        """Run ``publish MODE …`` and return its answer.

        Raises:
            RuntimeError: when it fails; the text is the end of its output.
        """
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return answer(spawn(self.publisher(mode, *arguments), self.variables, **pipes), timeout_s)

    def publisher(self, mode: str, *arguments: object) -> list[str]:
        """Return the command line of ``publish MODE …``."""
        return [*self.program, "publish", mode, *map(str, arguments)]

    @abstractmethod
    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """Add tasks, numbered from ``first``, as fast as possible: copies of a task that the system itself published,
        where its storage allows that; otherwise by its call for many."""

    def waiting(self) -> int | None:
        """Return how many tasks are not done; None where the server does not tell."""
        return None

    def operations(self) -> int | None:
        """Return the transactions of PostgreSQL, or commands of Redis, since the server started; None for others."""
        return None

    def tables(self) -> list[str]:
        """Return the tables, without their schema, that a task changes."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Close its connections."""


class System(ABC):
    """A system that is compared.

    Attributes:
        name: in file names and on command lines: lower case, no space.
        label: in tables and plots.
        durable: what a crash of the server loses.
        settings: for the reader of the table: every setting that is not the default, and why.
        concurrency: how many tasks at a time its worker process runs when it is fastest with tasks that take no time.
        rough: tasks a second, roughly, on two processors of 2026: as many are filled in that the fastest sample does
            not run out, and no more, since a long queue is a question of its own (``backlog``).
        bulk: whether it has a call that publishes many tasks.
        results: whether it stores what a task returns, and ``drain`` measures that.
        late: whether it can acknowledge a task before or after it runs.
        prefork: whether it has Celery's prefork pool.
        chords: whether it can run a chord.
        skips: ``CELL`` or ``CELL HOW`` → why the system is not measured there, for the page.
        cluster: the PostgreSQL that stores its tasks, if one does.
    """

    name: str
    label: str
    durable: str
    settings: str
    concurrency = 1
    rough = 2_000
    bulk = True
    results = late = prefork = chords = False
    skips: Mapping[str, str] = MappingProxyType({})
    cluster: TemporaryCluster | None = None

    @abstractmethod
    def fresh(self, *, results: bool = False) -> AbstractContextManager[Broker]:
        """Return an empty broker: a database of its own made from a template, or a flushed server."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return the versions of its server and packages."""

    def pids(self) -> list[int]:
        """Return the processes of its server, without their children."""
        return []

    @classmethod
    def missing(cls) -> str | None:
        """Return what this machine lacks and how to install it; None when the system can run."""
        return None


def sized(size: int) -> str:
    """Return the padding of a task: lines of a table, which pglz compresses to a third; the same in every run, and in
    ``node/publishing.mjs``."""
    state = 1

    def draw(limit: int) -> int:
        nonlocal state
        state = state * 48_271 % 2_147_483_647
        return state % limit

    lines, length = [], 0
    while length < size:
        name = "".join(chr(97 + draw(26)) for _ in range(4 + draw(8)))
        dated = f"2026-11-{10 + draw(20)}T{10 + draw(14)}:{10 + draw(50)}"
        lines.append(f"{draw(100_000_000)};{name};{draw(100_000)};{('open', 'paid', 'late')[draw(3)]};{dated};EUR ")
        length += len(lines[-1])
    return "".join(lines)[:size]
