"""Addresses that were meant for this package, and would reach another transport or none.

Kombu answers an unknown scheme with a KeyError, takes an address without `://` for the host of a RabbitMQ, to which it
tries to connect forever, and leaves an unknown driver to SQLAlchemy, and so to stock's own transport.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container

from celery_postgres.database.address import is_postgresql
from celery_postgres.errors import AddressError

_OURS = ("postgresql", "postgres")
#: Other names of PostgreSQL, its client and its extensions, which are too far from its own.
_ALSO = frozenset({"pg", "pgsql", "psql", "postgis"})
#: Of the letters of both words, the part that must agree: a letter too few, too many or two in the wrong order.
_LIKENESS = 0.75
#: What may stand before a `+`, for the broker and for the result backend.
_PREFIXES = {"broker": ("sqla", "sqlalchemy"), "result backend": ("db", "database")}
#: Nothing else is quoted: what looks like a scheme may be a piece of a password.
_SCHEME = re.compile(r"[a-z0-9]{1,20}(\+[a-z0-9]{1,20}){0,2}")
_WITHOUT_COLON = re.compile(r"([a-z]+\+)?postgres[a-z]*(\+[a-z0-9]+)?(:/(?!/)|//)", re.IGNORECASE)


def verify(url: str, whose: str, known: Container[str] | None = None) -> None:
    """Return if an address has no typing error in its scheme, or is not ours to judge.

    Args:
        whose: `broker` or `result backend`.
        known: the schemes that Kombu or Celery knows, and to which the address is left; None if only this package's own
            schemes are judged, with what follows them.

    Raises:
        AddressError: it has one. The text names the scheme and how to write it, and quotes nothing else.
    """
    line = _mistake(url, whose, known)
    if line is not None:
        raise AddressError(line)


def _mistake(url: str, whose: str, known: Container[str] | None) -> str | None:
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if not separator or not _SCHEME.fullmatch(scheme):
        if _WITHOUT_COLON.match(url) is None:
            return None
        return f"the {whose} URL has no :// after its scheme: write postgresql://user:password@host/database"
    first, *others = scheme.split("+")
    prefixed = first in _PREFIXES[whose]
    if first in (*_PREFIXES[whose], *_OURS):
        if is_postgresql(url) or not _is_near((others or [""])[0] if prefixed else first):
            return None
    elif known is None or first in known or not any(_is_near(word) for word in (first, *others)):
        return None
    prefix = f"{first}+" if prefixed else ""
    return f"the {whose} URL begins with {scheme}://, which no {whose} has: write {prefix}postgresql://…"


def _is_near(word: str) -> bool:
    return word in _ALSO or bool(difflib.get_close_matches(word, _OURS, 1, _LIKENESS))
