"""The sessions that this process has opened."""

from __future__ import annotations

import weakref
from typing import Protocol

from celery_postgres.database.per_process import PerProcess


class Opened(Protocol):
    """A session."""

    def close(self) -> None: ...

    def leave_to_parent(self) -> None:
        """Let go of the connection in a forked child."""
        ...


class _Open:
    def __init__(self) -> None:
        self.sessions: weakref.WeakSet[Opened] = weakref.WeakSet()

    def leave_to_parent(self) -> None:
        for session in list(self.sessions):
            session.leave_to_parent()


_open = PerProcess(_Open, _Open.leave_to_parent)


def note(session: Opened) -> None:
    """Count a session among those of this process, as long as somebody holds it."""
    _open.value.sessions.add(session)


def opened() -> list[Opened]:
    """The sessions that this process has opened and not forgotten."""
    return list(_open.value.sessions)
