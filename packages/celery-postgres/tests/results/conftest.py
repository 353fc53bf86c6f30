"""Results as programs see them: through workers of each pool, and from clients in this process."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_postgres.database.result_store import ResultStore
from celery_postgres.results.backend import DatabaseBackend


@pytest.fixture(scope="module", autouse=True)
def _installed(installed: None) -> None:
    """Every module of this folder is a program that has called ``install()``."""


@pytest.fixture
def make_app(module_database: Any) -> Iterator[Callable[..., Celery]]:
    """``make_app()``: a program whose results are in the module's database, or in another. No worker listens."""
    made: list[Celery] = []

    def make(url: str | None = None, **conf: Any) -> Celery:
        address = url or module_database.url
        app = Celery("client", broker="sqla+" + address, backend="db+" + address, set_as_current=False)
        app.conf.update(conf)
        made.append(app)
        return app

    yield make
    for app in made:
        app.amqp.producer_pool.force_close_all()
        app.pool.force_close_all()
        app.close()


@pytest.fixture
def app(make_app: Callable[..., Celery], plain_database: Any) -> Celery:
    """A program with a database of its own."""
    return make_app(plain_database.url)


@pytest.fixture
def url(plain_database: Any) -> str:
    """The address of that database."""
    return str(plain_database.url)


@pytest.fixture
def store(app: Celery) -> ResultStore:
    """The results of that program."""
    return app.backend.result_store


@pytest.fixture
def backend(make_app: Callable[..., Celery]) -> DatabaseBackend:
    """The backend of one such program."""
    found = make_app().backend
    assert type(found) is DatabaseBackend
    return found


@pytest.fixture
def task_id() -> str:
    """An id that nothing else has."""
    return str(uuid.uuid4())
