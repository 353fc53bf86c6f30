"""The systems that are compared, one module each, and what the comparison asks of one.

A system publishes and works in its own words: by a *program*, Python (``benchmarks/programs``) or Node
(``benchmarks/node``), that keeps to this contract.

The task of every system is ``work(number, seconds, padding)``: sleep that long (not at all if 0), then write the record
``(number, start, end)`` into the journal (``benchmarks.journal``; nanoseconds of CLOCK_MONOTONIC).

``PROGRAM worker``
    One process that works until TERM.  It touches the file ``BENCH_READY`` when it takes tasks (and before that
    ``BENCH_READY`` with ``.begun``, if it fetches some before it hears of new ones), writes into the folder
    ``BENCH_JOURNAL`` at most ``BENCH_CAPACITY`` records, and runs ``BENCH_CONCURRENCY`` tasks at a time.

``PROGRAM publish MODE …``
    Its last line of output is JSON.  ``SIZE`` is the length of the padding in characters.

    ``one_by_one FIRST COUNT LIMIT_S SIZE``
        As fast as the documented call for one task goes, after 200 that warm up, until COUNT or LIMIT_S:
        ``{"published": n, "seconds": s, "rate": n/s, "cpu_s": own processor time}``.
    ``in_bulk FIRST COUNT LIMIT_S SIZE SECONDS``
        The same with the documented call for many, 1,000 at a time; ``null`` where there is none.
        Each task takes SECONDS.
    ``paced FIRST COUNT SHORTEST_S LONGEST_S``
        One by one with a random pause before each: ``[[number, begin_ns, end_ns], …]`` of the calls, but for 20
        before them, which take the first numbers.
    ``steady FIRST RATE SECONDS``
        One by one on a schedule of RATE a second that does not wait for late calls (each is due at its own time, and
        ``begin_ns`` is that time): the same list.

Both find the server in ``BENCH_BROKER``; with ``BENCH_RESULTS=1`` the results of tasks (their number) are stored.
"""

from __future__ import annotations

import subprocess
from contextlib import AbstractContextManager
from typing import Any, Protocol

from benchmarks.processes import answer, spawn
from environment.temporary import TemporaryCluster


class Ground(Protocol):
    """A fresh, empty broker of a system, on which one sample is made.

    :ivar variables: what its programs need in their environment.
    """

    variables: dict[str, str]

    def worker(self, concurrency: int) -> list[str]:
        """The command line of a worker process that runs so many tasks at a time."""

    def publisher(self, mode: str, *arguments: object) -> list[str]:
        """The command line of ``publish MODE …``."""

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """Add tasks, numbered from ``first``, as fast as can be: rows copied from one that the system itself made,
        where its tables admit that; else by its call for many."""

    def waiting(self) -> int | None:
        """How many tasks have not been done yet; None where the server does not say."""

    def operations(self) -> int | None:
        """Transactions of PostgreSQL, or commands of Redis, since the server began; None where it does not say."""

    def close(self) -> None:
        """Let go of connections."""


class System(Protocol):
    """Who is compared.

    :ivar name: in file names and on command lines: lower case, no space.
    :ivar label: in tables and plots.
    :ivar durable: what a crash of the server costs.
    :ivar settings: how it is set up where that is not its default, and why, for the reader of the table.
    :ivar concurrency: how many tasks at a time its worker process runs when it shall be fastest with tasks that take
        no time.
    :ivar cluster: the PostgreSQL in which its tasks lie, if they do.
    """

    name: str
    label: str
    durable: str
    settings: str
    concurrency: int

    @property
    def cluster(self) -> TemporaryCluster | None: ...

    def fresh(self, *, results: bool = False) -> AbstractContextManager[Ground]:
        """A fresh, empty broker: its own database made from a template, or a flushed server."""

    def versions(self) -> dict[str, str]:
        """Of its server and its packages."""

    def pids(self) -> list[int]:
        """The processes of its server, children not named."""

    @staticmethod
    def missing() -> str | None:
        """What it lacks on this machine and how to install it; None when it can run."""


def sized(size: int) -> str:
    """The padding of a task: lines of a table, which pglz brings to a third; the same in every run, and in
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


def publish(ground: Ground, mode: str, *arguments: object, timeout_s: float = 300) -> Any:
    """Run ``publish MODE …`` and return its answer.

    :raises RuntimeError: with the end of what it said, when it fails.
    """
    process = spawn(
        ground.publisher(mode, *arguments), ground.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return answer(process, timeout_s)
