"""The broker as programs see it: clients in this process, workers of a probe program in their own."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

from celery_postgres.tool import cli
from environment.testkit.client import Client
from environment.testkit.queue_tool import Tool


@pytest.fixture(scope="module", autouse=True)
def _installed(installed: None) -> None:
    """Every module of this folder is a program that has called ``install()``."""


# -- clients in this process


@pytest.fixture
def connect(module_database: Any) -> Iterator[Callable[..., Client]]:
    """``connect()``: a Kombu client on the module's migrated database, or, with a URL, on another."""
    clients: list[Client] = []

    def make(url: str | None = None, **options: Any) -> Client:
        clients.append(Client(url or module_database.url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    """One Kombu client on the module's database."""
    return connect()


@pytest.fixture
def queue() -> str:
    """The name of a queue that nothing else uses."""
    return f"q-{secrets.token_hex(4)}"


# -- an operator


@pytest.fixture
def tool(plain_database: Any) -> Tool:
    """``tool(words, …)``: what the command prints as JSON, on the test's own database.

    In this process: ``typed`` starts one for each call, which takes 0.4 s of a processor.
    """

    def call(*words: str) -> Any:
        out, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(errors):
            status = cli.main(["--json", *words], plain_database.url)
        assert status == 0, errors.getvalue()
        return json.loads(out.getvalue())

    return call
