"""The class behind Kombu's aliases, which chooses the transport by the URL."""

from __future__ import annotations

from typing import Any

from celery_postgres.broker.transport import Transport
from celery_postgres.database.address import is_postgresql


class Chooser(Transport):
    """Makes this package's transport for a PostgreSQL URL, else Kombu's own."""

    def __new__(cls, client: Any, **options: Any) -> Any:
        url = client.hostname
        if url is None or "://" not in url or is_postgresql(url):
            transport = Transport.__new__(Transport)
            transport.__init__(client, **options)  # type: ignore[misc]
            return transport
        from kombu.transport.sqlalchemy import Transport as Stock

        return Stock(client, **options)

    def __init__(self, client: Any, **options: Any) -> None:
        """Never called, because `__new__` returns an instance of another class."""
