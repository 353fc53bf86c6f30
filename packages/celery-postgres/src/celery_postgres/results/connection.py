"""The address and the options of the result backend, and its connections."""

from __future__ import annotations

import os
from typing import Any

import celery
from celery.backends import base as celery_base
from celery.exceptions import ImproperlyConfigured
from celery.utils.time import maybe_timedelta

from celery_postgres.database import pool
from celery_postgres.database.address import masked, parsed
from celery_postgres.database.attempt_store import Retention
from celery_postgres.database.chord_store import ChordStore
from celery_postgres.database.options import ResultOptions
from celery_postgres.database.placement import databases_of
from celery_postgres.database.pool import Sessions
from celery_postgres.database.result_store import ResultStore
from celery_postgres.database.session_settings import STATEMENT_TIMEOUT
from celery_postgres.results.expiry import Expiry
from celery_postgres.results.serializer import Pickle
from celery_postgres.results.several import OtherDatabases

#: Results are written in the form that the stock backend of this Celery reads.
_DEFAULT_PICKLE = Pickle.READ if celery.VERSION >= (5, 7) else Pickle.WRITE
#: Without the types of celery-types, which describe the attributes of other backends.
BaseBackend: Any = celery_base.BaseBackend


class ConnectedBackend(BaseBackend):  # type: ignore[misc]
    """A result backend that knows its database.

    Attributes:
        dsn: the address in libpq's form.
        options: `result_backend_transport_options`, checked.
        kept: how long attempts are kept.
        pickle: how results are serialized.
        elsewhere: the other databases of the fleet.
        expiry: when a cleanup deletes them.
    """

    def __init__(
        self, url: str | None = None, dburi: str | None = None, engine_options: Any = None, **options: Any
    ) -> None:
        super().__init__(url=url, expires_type=maybe_timedelta, **options)
        conf = self.app.conf
        self.url = url or dburi or conf.database_url
        if not self.url:
            raise ImproperlyConfigured("the result backend has no address: set result_backend to db+postgresql://…")
        if self.serializer == "pickle":
            raise ImproperlyConfigured(
                "this result backend does not support result_serializer = 'pickle': reading its results would execute "
                "code. Use 'json'; dates, Decimal, UUID, sets and tuples are stored as they are"
            )
        if conf.database_table_names or conf.database_table_schemas:
            raise ImproperlyConfigured(
                "this result backend does not support database_table_names and database_table_schemas: its tables have "
                "Celery's own names. For another schema set search_path in the address (?options=-csearch_path%3D…)"
            )
        self.options = ResultOptions.of(conf.result_backend_transport_options)
        self.kept = Retention(self.options.history, self.options.history_rows)
        self.pickle = Pickle(self.options.pickle or _DEFAULT_PICKLE)
        self.expiry = Expiry.of(conf, self.expires)
        self.dsn = parsed(self.url, "result backend")
        arguments = {**(conf.database_engine_options or {}), **(engine_options or {})}.get("connect_args") or {}
        self._connect_timeout = int(arguments.get("connect_timeout") or 5)
        self._pid = 0
        self._sessions: Sessions | None = None
        databases, settings = databases_of(conf.broker_transport_options), {"statement_timeout": STATEMENT_TIMEOUT}
        self.elsewhere = OtherDatabases(databases, self.dsn, settings, self._connect_timeout)

    def as_uri(self, include_password: bool = False) -> str:
        return str(self.url) if include_password else masked(str(self.url))

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        # Without the address, which contains a password: who unpickles it uses the address of its own application.
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires})

    @property
    def is_async(self) -> bool:
        return True

    @property
    def sessions(self) -> Sessions:
        """Shared with the broker if that has the same address; a forked child acquires its own."""
        if self._sessions is None or self._pid != os.getpid():
            self._pid = os.getpid()
            settings = {"statement_timeout": STATEMENT_TIMEOUT}
            self._sessions = pool.acquire(self.dsn, settings, self._connect_timeout, self.elsewhere.own)
        return self._sessions

    @property
    def listening(self) -> Sessions | None:
        """New connections that notifications reach; None unless those of `sessions` go through a pooler."""
        if self.options.listen_dsn is None:
            return None
        settings = {"statement_timeout": STATEMENT_TIMEOUT}
        return Sessions(self.options.listen_dsn, settings, connect_timeout=self._connect_timeout)

    @property
    def result_store(self) -> ResultStore:
        return ResultStore(self.sessions)

    @property
    def chord_store(self) -> ChordStore:
        return ChordStore(self.sessions)
