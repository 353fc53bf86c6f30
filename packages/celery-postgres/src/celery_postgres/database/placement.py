"""The databases of one fleet, and which queue, or key, is in which."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from celery_postgres.database.address import database_of, direct_dsn
from celery_postgres.errors import OptionError


class Databases:
    """The databases of one fleet: where each queue is, and where the rows of each key are.

    Every process of the fleet has the same, as `broker_transport_options = {"databases": Databases(…)}`. A worker
    consumes from one of them, its `broker_url`; what any process publishes goes into the database of its queue, and a
    result is looked for in all of them.

    Example::

        DATABASES = Databases(
            {"eu": os.environ["EU_URL"], "us": os.environ["US_URL"]},
            queues={"eu.*": "eu", "us.*": "us", "invoices": "eu"},
            keys={"acme": "us"},
        )
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        queues: Mapping[str, str] | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            addresses: the URL of each database, by a name of yours.
            queues: the name of the database of each queue, by the queue's name or a pattern with `*`; the first that
                matches counts. A queue that none matches is in the database of the process that uses it.
            keys: the name of the database of a key that is placed by hand.

        Raises:
            OptionError: a name is unknown, or libpq cannot read an address. The text quotes no address.
        """
        if not addresses:
            raise OptionError("Databases names no database: give the address of each by its name")
        self._urls = dict(addresses)
        for name, url in addresses.items():
            if not (isinstance(url, str) and url.strip()):
                raise OptionError(f"the address of the database {name} is empty: write it as postgresql://…")
        try:
            self._dsns = {name: direct_dsn(url, f"address of the database {name}") for name, url in addresses.items()}
        except ValueError as error:
            raise OptionError(str(error)) from None
        self._queues, self._keys = dict(queues or {}), dict(keys or {})
        for what, name in (*self._queues.items(), *self._keys.items()):
            if name not in self._urls:
                raise OptionError(f"{what!r} is in the database {name!r}, which is none of {', '.join(self._urls)}")

    def __repr__(self) -> str:
        """Without the addresses, which have passwords in them."""
        return f"Databases({', '.join(self._urls)}; queues={self._queues!r})"

    @property
    def names(self) -> list[str]:
        """The names of the databases."""
        return list(self._urls)

    def url(self, name: str) -> str:
        """The address of a database, for a worker's `broker_url` and `result_backend`.

        Raises:
            OptionError: there is none of that name.
        """
        if name not in self._urls:
            raise OptionError(f"there is no database {name!r}: there are {', '.join(self._urls)}")
        return self._urls[name]

    def of_queue(self, queue: str) -> str | None:
        """The name of the database of a queue; None if no pattern matches it."""
        return next((name for pattern, name in self._queues.items() if fnmatchcase(queue, pattern)), None)

    def of_key(self, key: object) -> str:
        """The name of the database of a key, for example of a tenant: the one that `keys` names, else by a stable hash.

        With one database more, one key in so many moves there, and no other key moves: rendezvous hashing.
        """
        word = str(key)
        return self._keys.get(word) or max(self._urls, key=lambda name: _weight(name, word))

    def dsn(self, name: str) -> str:
        """The libpq connection string of a database."""
        return self._dsns[name]

    def name_of(self, dsn: str) -> str | None:
        """The name of the database that a connection string leads to; None if it is none of these."""
        mine = database_of(dsn)
        return next((name for name, other in self._dsns.items() if database_of(other) == mine), None)


def databases_of(options: Mapping[str, Any] | None) -> Databases | None:
    """The option `databases` of `broker_transport_options`; None if there is one database.

    Raises:
        OptionError: it is something else.
    """
    given = (options or {}).get("databases")
    if given is not None and not isinstance(given, Databases):
        raise OptionError("databases in broker_transport_options is a celery_postgres.Databases")
    return given


def _weight(name: str, key: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=16).digest()
