"""Registering this transport and this result backend under Kombu's and Celery's aliases.

By name: a process loads the transport, and what it consumes with, when it first connects. Otherwise
`import celery_postgres` would take 25 ms longer.
"""

from __future__ import annotations

from typing import Any

from celery import signals
from celery.app.backends import BACKEND_ALIASES

from celery_postgres.compat import connection_switch, mistyped_addresses
from celery_postgres.compat.upstream import transports
from celery_postgres.database.address import is_postgresql, switched_parameters
from celery_postgres.database.mistyped import verify

ALIASES = ("sqla", "sqlalchemy", "postgresql", "postgres")
RESULT_ALIASES = ("db", "database", "postgresql", "postgres")


class ResultChooser:
    """The class behind an alias: makes this package's result backend for a PostgreSQL URL, else Celery's own."""

    def __new__(cls, app: Any = None, url: str | None = None, **options: Any) -> Any:
        address = url or options.get("dburi") or app.conf.database_url
        if is_postgresql(address):
            from celery_postgres.results.backend import DatabaseBackend

            return DatabaseBackend(app=app, url=url, **options)
        verify(address or "", "result backend", ())
        from celery.backends.database import DatabaseBackend as Stock

        return Stock(app=app, url=url, **options)


def install() -> None:
    """Use this package for `sqla+postgresql://`, `sqlalchemy+postgresql://` and `postgresql://` as a broker, and for
    `db+postgresql://`, `database+postgresql://` and `postgresql://` as a result backend.

    Call it once, before the first connection. It may be called again, and later: an alias that Kombu has already looked
    up is looked up again.
    """
    for alias in RESULT_ALIASES:
        BACKEND_ALIASES[alias] = "celery_postgres.installation:ResultChooser"
    for alias in ALIASES:
        transports.TRANSPORT_ALIASES[alias] = "celery_postgres.broker.chooser:Chooser"
        transports._transport_cache.pop(alias, None)
    _follow_failovers()


def transport_class() -> Any:
    """The transport, for `broker_transport`: it is used for a `broker_url` that has one scheme, as in `postgresql://`.
    Kombu gives a prefix (`sqla+postgresql://`) precedence, so that one needs `install()`."""
    from celery_postgres.broker.transport import Transport

    _follow_failovers()
    return Transport


def _follow_failovers() -> None:
    connection_switch.install(lambda url: switched_parameters(url) if is_postgresql(url) else None)
    mistyped_addresses.install(verify)


@signals.worker_ready.connect(weak=False)
def _start_maintenance(sender: Any, **_: Any) -> None:
    """Start the maintenance of the result backend. Here, because prefork's main process has not loaded the backend's
    module when it is ready."""
    from celery_postgres.results.backend import DatabaseBackend

    backend = sender.app.backend
    if isinstance(backend, DatabaseBackend):
        backend.shares_broker()  # asked before claims are looked for
        backend.start_maintenance()


__all__ = ["ResultChooser", "install"]
