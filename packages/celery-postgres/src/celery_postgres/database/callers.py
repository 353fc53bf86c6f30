"""What a driver of a caller's connection must be able to do: one small class for each, in `callers_<package>.py`.

A module of this kind has a function `adapter(connection)`, which raises a `TypeError` with what to do instead, and
`refusal(error)`. It is imported when a connection of its driver is given, so that other drivers need not be installed.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from celery_postgres.database.session import Row
from celery_postgres.database.statements import Statement

#: The package that a connection's class, or one of its bases, comes from, and the module that adapts it.
_MODULES = {name: f"celery_postgres.database.callers_{name}" for name in ("psycopg2", "psycopg", "asyncpg")} | {
    "sqlalchemy": "celery_postgres.database.callers_sqlalchemy",
    "django": "celery_postgres.database.callers_django",
}
KINDS = (
    "a connection of psycopg2, psycopg (3), asyncpg or Django, or an SQLAlchemy Connection or Session (asynchronous or "
    "not)"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a statement failed. It quotes no value.

    Attributes:
        sqlstate: PostgreSQL's code; None if the driver refused, or lost the connection.
        message: PostgreSQL's primary message, or one of ours.
        lasting: without a SQLSTATE, whether the driver could not send a value.
    """

    sqlstate: str | None
    message: str
    table: str | None = None
    constraint: str | None = None
    source_function: str | None = None
    lasting: bool = False


class Adapter(ABC):
    """A synchronous connection."""

    #: What `fetch` raises when the statement fails, known to `refusal_of`.
    errors: tuple[type[Exception], ...]

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    @abstractmethod
    def fetch(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        """Execute the statement in the transaction that the connection is in, and return its rows."""

    @abstractmethod
    def execute(self, sql: str) -> None:
        """Execute one of our own words: SAVEPOINT, BEGIN and their ends."""

    @abstractmethod
    def autocommits(self) -> bool:
        """Whether what is executed next is committed by itself."""


class AsyncAdapter(ABC):
    """An asynchronous connection."""

    errors: tuple[type[Exception], ...]

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    @abstractmethod
    async def fetch(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        """Execute the statement in the transaction that the connection is in, and return its rows."""

    @abstractmethod
    async def execute(self, sql: str) -> None:
        """Execute one of our own words: SAVEPOINT, BEGIN and their ends."""

    @abstractmethod
    def transaction(self) -> object:
        """What tells the transaction that is open from another, as far as the driver can; None if none is open."""

    @abstractmethod
    async def autocommits(self) -> bool:
        """Whether what is executed next is committed by itself."""


def adapter_of(connection: Any) -> Adapter | AsyncAdapter:
    """The adapter for a connection, by the package that its class comes from.

    Raises:
        TypeError: there is none; the text says what to do instead.
    """
    name = _module_of(type(connection))
    if name is None:
        raise unsuitable(connection)
    adapted: Adapter | AsyncAdapter = importlib.import_module(name).adapter(connection)
    return adapted


def refusal_of(error: BaseException) -> Refusal:
    """Why a statement failed, from an error of any driver."""
    name = _module_of(type(error))
    if name is None:
        return Refusal(None, type(error).__name__)
    refusal: Refusal = importlib.import_module(name).refusal(error)
    return refusal


def unsuitable(connection: Any) -> TypeError:
    """The error for an object that is no connection, or none that is known."""
    kind = type(connection)
    return TypeError(f"publishing_on takes {KINDS}, not {kind.__module__}.{kind.__qualname__}")


def _module_of(kind: type) -> str | None:
    roots = (one.__module__.partition(".")[0] for one in kind.__mro__)
    return next((_MODULES[root] for root in roots if root in _MODULES), None)
