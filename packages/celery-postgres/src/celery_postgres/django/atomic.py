"""Publishing within `transaction.atomic()` as part of the transaction."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from celery_postgres.broker.transaction import set_ambient
from celery_postgres.database.address import parsed
from celery_postgres.django import isolation
from celery_postgres.django.addresses import address_of
from celery_postgres.django.broker import Place, configured_aliases, current_aliases, place_of

#: Django's setting: False publishes at once, also within `atomic`.
SETTING = "CELERY_POSTGRES_ATOMIC"


def install() -> None:
    """Make open transactions of Django those that tasks are published in. Calling it again changes nothing."""
    set_ambient(open_transaction)


def open_transaction(dsn: str) -> Any:
    """This thread's Django connection that is in a transaction in the database of a connection string, or None.

    Of several aliases that lead there, it is the first in DATABASES that is in a transaction.

    Raises:
        NotPublishedError: there is none, and the test that runs now may not use the database.
    """
    from django.conf import settings
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        # The cheapest question first: most publishes are outside of a transaction.
        if _is_open(connection) and getattr(settings, SETTING, True) and _leads_to(connection, dsn):
            return connection
    if isolation.is_testing():
        _verify(dsn)
    return None


def _verify(dsn: str) -> None:
    """Refuse to publish at once, while tests run, where a test may not.

    Raises:
        NotPublishedError: it may not.
    """
    place = place_of(dsn)
    aliases = current_aliases(place)
    isolation.verify_use(aliases)
    replaced = [] if aliases else configured_aliases(place)
    if replaced:
        isolation.refuse_real(replaced[0])


def _is_open(connection: Any) -> bool:
    """Whether what the connection executes now is part of a transaction: `atomic`, or autocommit is off."""
    return (
        connection.vendor == "postgresql"
        and connection.connection is not None
        and (connection.in_atomic_block or not connection.autocommit)
    )


def _leads_to(connection: Any, dsn: str) -> bool:
    return _place(address_of(connection.settings_dict)) == place_of(dsn)


@lru_cache
def _place(url: str) -> Place:
    return place_of(parsed(url, "database"))
