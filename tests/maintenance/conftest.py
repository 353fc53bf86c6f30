"""The tasks as functions, on a database of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from app.core.settings import Settings
from app.db import upkeep
from app.db.engine import build_engine
from app.tasks import maintenance


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, database: Any) -> Callable[..., None]:
    """`configure(maintenance_batch_size=10)`: what the tasks read from the environment."""

    def call(**values: Any) -> None:
        settings = Settings(database_url=database.url, _env_file=None, **values)
        monkeypatch.setattr(maintenance, "get_settings", lambda: settings)

    return call


@pytest.fixture
def engine(database: Any, configure: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The application's engine, with one connection, and the tasks on it."""
    configure(maintenance_batch_size=10, maintenance_hash_key="a key for the tests")
    engine = build_engine(Settings(database_url=database.url, _env_file=None), pool_size=1)
    monkeypatch.setattr(maintenance, "get_engine", lambda: engine)
    yield engine
    engine.dispose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run does not wait for the first."""
    monkeypatch.setattr(upkeep, "WAIT_FOR_OTHER_RUN_MS", 1)
