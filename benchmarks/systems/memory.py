"""Celery's in-memory transport: what Celery itself costs, in one process and without any server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import celery

from benchmarks.systems import Ground


class MemoryGround:
    """A queue inside the worker, which fills it before it starts."""

    def __init__(self) -> None:
        self.variables = {"BENCH_BROKER": "memory://"}
        self._count = 0

    def worker(self, concurrency: int) -> list[str]:
        return [sys.executable, "-m", "benchmarks.ceiling", str(self._count)]

    def publisher(self, mode: str, *arguments: object) -> list[str]:
        raise NotImplementedError("nobody else can reach it")

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        self._count += count

    def waiting(self) -> int | None:
        return None

    def operations(self) -> int | None:
        return None

    def close(self) -> None:
        pass


class MemorySystem:
    """See the module."""

    name = "memory"
    label = "Celery in memory"
    durable = "no: inside the process"
    settings = "no queue for others: what Celery's own worker costs"
    concurrency = 1
    cluster = None

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[Ground]:
        yield MemoryGround()

    def versions(self) -> dict[str, str]:
        return {"Celery": celery.__version__}

    def pids(self) -> list[int]:
        return []

    @staticmethod
    def missing() -> str | None:
        """Nothing."""
        return None
