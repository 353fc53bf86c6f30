"""Helpers for tests that read a worker's pages and its log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from environment.worker import WorkerProcess

TASKS = {"args": ["-I", "observed_tasks"], "env": {"PYTHONPATH": str(Path(__file__).parent)}}
DEADLINE_S = 60


class Observed:
    """A worker seen from outside."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self._info = worker.info

    def page(self, path: str) -> tuple[int, dict[str, Any]]:
        status, body = self._info.get(path)
        return status, json.loads(body)

    def status(self, path: str) -> int:
        return self._info.get(path)[0]

    def samples(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Values of one sample name by its sorted labels."""
        status, body = self._info.get("/metrics", timeout_s=15)
        assert status == 200
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
            if sample.name == name
        }

    def total(self, name: str = "celery_tasks_total", **labels: str) -> float:
        """The sum of the samples that have `labels`."""
        wanted = set(labels.items())
        return sum(value for found, value in self.samples(name).items() if wanted <= set(found))

    def lines(self) -> list[dict[str, Any]]:
        """Its log, in which every line is JSON."""
        return [json.loads(line) for line in self.worker.log_text().splitlines()]


@pytest.fixture(scope="session")
def observe() -> Any:
    return Observed


@pytest.fixture(scope="session")
def worker_options() -> Any:
    """What a worker needs to have the tasks of `observed_tasks`, with further options."""

    def options(*args: str, **env: str) -> dict[str, Any]:
        return {"args": [*TASKS["args"], *args], "env": {**TASKS["env"], **env}}

    return options


@pytest.fixture(scope="session")
def client_of() -> Any:
    """A context manager: an application that publishes to the database at a URL."""

    # Not at import: a conftest is imported before the run has a server, and the application wants DATABASE_URL.
    from app.celery_app import celery_app, create_app
    from app.core.settings import Settings

    @contextmanager
    def client(url: str) -> Iterator[Celery]:
        app = create_app(Settings(database_url=url, _env_file=None))
        try:
            yield app
        finally:
            app.close()
            celery_app.set_current()

    return client
