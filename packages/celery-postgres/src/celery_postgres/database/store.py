"""The base of the stores: statements about one subject as methods, with dataclasses in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from celery_postgres.database.pool import Sessions
from celery_postgres.database.session import Row, Session

#: LIMIT of a statement that is to return every row.
EVERYTHING = 2**31


class Runner(Protocol):
    """A `Session`, or the `Sessions` of a process."""

    def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement in a transaction of its own; see `Session.run`."""
        ...


class InTurn:
    """A runner that executes the statements of all threads one after the other, so that they share one connection."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def run(self, name: str, **parameters: Any) -> list[Row]:
        with self._sessions.taking_turns:
            return self._sessions.run(name, **parameters)


@contextlib.contextmanager
def in_transaction(runner: Runner) -> Iterator[Session]:
    """The block is one transaction, on a session or on some session of the process. Yields that session."""
    if isinstance(runner, Sessions):
        with runner.lent() as session, session.transaction():
            yield session
        return
    assert isinstance(runner, Session)  # noqa: S101
    with runner.transaction():
        yield runner


class Store:
    """Executes its statements on one session, or on a free session of the process."""

    def __init__(self, runner: Runner) -> None:
        self._run = runner.run
