"""The base of the stores: statements about one subject as methods, with dataclasses in and out."""

from __future__ import annotations

from typing import Any, Protocol

from celery_postgres.database.pool import Sessions
from celery_postgres.database.session import Row

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


class Store:
    """Executes its statements on one session, or on a free session of the process."""

    def __init__(self, runner: Runner) -> None:
        self._run = runner.run
