"""The ids of the tasks that hold the unique keys of what is published, for those who publish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class First:
    """The id of the task that a publish has found instead of publishing its own.

    Attributes:
        task_id: that id; None while none is known. What is collected, by `bulk` or in an asynchronous transaction, is
            published later.
        result: the `AsyncResult` that is to have this id once it is known.
    """

    def __init__(self) -> None:
        self.task_id: str | None = None
        self.result: Any = None

    def found(self, task_id: str) -> None:
        self.task_id = task_id
        if self.result is not None:
            self.result.id = task_id


_first: ContextVar[First | None] = ContextVar("celery_postgres_first", default=None)


@contextmanager
def finding_first() -> Iterator[First]:
    """What is published within the block tells the `First` whose key it has found taken."""
    one = First()
    token = _first.set(one)
    try:
        yield one
    finally:
        _first.reset(token)


def current_first() -> First | None:
    """The one of the publish that runs here."""
    return _first.get()
