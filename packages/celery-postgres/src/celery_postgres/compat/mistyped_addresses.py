"""One line for an address with a typing error, where Kombu and Celery have a traceback or connect to another host.

`kombu.Connection` reads a broker's address, `celery.app.backends.by_url` a result backend's. Unnecessary once both
refuse, in words, a scheme that they do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from functools import wraps
from typing import Any

from celery.app import backends

from celery_postgres.compat.upstream import Connection, transports

#: Raises an error for a mistyped address: the address, whose it is, and the schemes that are known, if others than ours
#: are judged.
Verify = Callable[[str, str, Container[str] | None], None]
#: Of the positional parameters of a Connection, `transport` is the one after these, and the hostname before them.
_BEFORE_TRANSPORT = 6


def install(verify: Verify) -> None:
    """Patch both. Calling it again changes nothing."""
    if not hasattr(Connection.__init__, "celery_postgres"):
        Connection.__init__ = _connecting(Connection.__init__, verify)
    if not hasattr(backends.by_url, "celery_postgres"):
        backends.by_url = _choosing(backends.by_url, verify)


def _connecting(original: Any, verify: Verify) -> Any:
    @wraps(original)
    def initialize(self: Any, hostname: Any = "localhost", *args: Any, **options: Any) -> None:
        # A transport that is named reads any address.
        if options.get("transport") is None and len(args) <= _BEFORE_TRANSPORT:
            for url in _urls(hostname):
                verify(url, "broker", transports.TRANSPORT_ALIASES)
        original(self, hostname, *args, **options)

    initialize.celery_postgres = True  # type: ignore[attr-defined]
    return initialize


def _urls(hostname: Any) -> Iterable[str]:
    """All addresses, as Kombu separates them."""
    given = [hostname] if isinstance(hostname, str) else hostname or ()
    return [url for one in given if isinstance(one, str) for url in one.split(";")]


def _choosing(original: Any, verify: Verify) -> Any:
    @wraps(original)
    def by_url(backend: Any = None, loader: Any = None) -> Any:
        given = backend if isinstance(backend, str) else ""
        verify(given, "result backend", None)
        try:
            return original(backend, loader)
        except Exception:  # Celery imports a name that it does not know as a module
            verify(given, "result backend", ())
            raise

    by_url.celery_postgres = True  # type: ignore[attr-defined]
    return by_url
