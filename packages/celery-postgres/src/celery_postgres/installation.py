"""Making Kombu's and Celery's aliases mean this transport and this result backend."""

from __future__ import annotations

from typing import Any

from celery import signals
from celery.app.backends import BACKEND_ALIASES

from celery_postgres.broker.transport import Transport
from celery_postgres.compat.upstream import Connection, transports
from celery_postgres.database.address import is_postgresql, switched_parameters

ALIASES = ("sqla", "sqlalchemy", "postgresql", "postgres")
RESULT_ALIASES = ("db", "database", "postgresql", "postgres")


class Chooser(Transport):
    """Stands for an alias: PostgreSQL URLs get this package's transport, all others the stock one."""

    def __new__(cls, client: Any, **options: Any) -> Any:
        url = client.hostname
        if url is None or "://" not in url or is_postgresql(url):
            transport = Transport.__new__(Transport)
            transport.__init__(client, **options)  # type: ignore[misc]
            return transport
        from kombu.transport.sqlalchemy import Transport as Stock

        return Stock(client, **options)

    def __init__(self, client: Any, **options: Any) -> None:
        """Never called: `__new__` makes something else."""


class ResultChooser:
    """Stands for an alias of result backends: PostgreSQL URLs get this package's, all others the stock one."""

    def __new__(cls, app: Any = None, url: str | None = None, **options: Any) -> Any:
        address = url or options.get("dburi") or app.conf.database_url
        if is_postgresql(address):
            from celery_postgres.results.backend import DatabaseBackend

            return DatabaseBackend(app=app, url=url, **options)
        from celery.backends.database import DatabaseBackend as Stock

        return Stock(app=app, url=url, **options)


def install() -> None:
    """Let `sqla+postgresql://`, `sqlalchemy+postgresql://` and `postgresql://` mean PostgreSQL as a broker, and
    `db+postgresql://`, `database+postgresql://` and `postgresql://` as a result backend.

    Call it before the first connection is made, or at any time: it may be called twice, and an alias that Kombu has
    looked up already is looked up again.
    """
    for alias in RESULT_ALIASES:
        BACKEND_ALIASES[alias] = "celery_postgres.installation:ResultChooser"
    for alias in ALIASES:
        transports.TRANSPORT_ALIASES[alias] = "celery_postgres.installation:Chooser"
        transports._transport_cache.pop(alias, None)
    if not hasattr(Connection.switch, "celery_postgres"):
        Connection.switch = _switch(Connection.switch)


def _switch(original: Any) -> Any:
    """Kombu's `switch` takes a URL apart even where the transport wants it whole, and then fails over to nothing."""

    def switch(self: Any, conn_str: str) -> None:
        if not is_postgresql(conn_str):
            original(self, conn_str)
            return
        self.close()
        self.declared_entities.clear()
        self._closed = False
        self._init_params(**{**self._initial_params, **switched_parameters(conn_str)})

    switch.celery_postgres = True  # type: ignore[attr-defined]
    return switch


@signals.worker_ready.connect(weak=False)
def _start_maintenance(sender: Any, **_: Any) -> None:
    """Here and not in the backend's module, which prefork's main process has not loaded when it is ready."""
    from celery_postgres.results.backend import DatabaseBackend

    backend = sender.app.backend
    if isinstance(backend, DatabaseBackend):
        backend.start_maintenance()


__all__ = ["Chooser", "ResultChooser", "install"]
