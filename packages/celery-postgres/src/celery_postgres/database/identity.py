"""Whether two connection strings lead to the same tables."""

from __future__ import annotations

import secrets
from contextlib import closing

from celery_postgres.database.address import database_of, parameter_of
from celery_postgres.database.schema_store import SchemaStore
from celery_postgres.database.session import Session

#: Of the databases that this process knows by two addresses: the name by one of them, by the name by the other.
_names: dict[tuple[str, ...], tuple[str, ...]] = {}


def name_of(dsn: str) -> tuple[str, ...]:
    """As `database_of`, and also equal for addresses that `recognizes` has found to be of one database."""
    name = database_of(dsn)
    return _names.get(name, name)


def recognizes(known: str, dsn: str) -> bool:
    """Whether one role reaches the same tables by both addresses (directly and through a pooler, by two names of a
    host). From then on `name_of` is the same for both.

    Raises:
        psycopg2.Error, SchemaError: one of them cannot be reached, if that is needed to know it.
    """
    if name_of(known) == name_of(dsn):
        return True
    if parameter_of(known, "user") != parameter_of(dsn, "user"):
        return False  # each may lack a right that the other has
    with closing(Session(known)) as one, closing(Session(dsn)) as other:
        same = same_tables(one, other)
    if same:  # the name of what is known stays: prefork's children may have learned it before
        _names[database_of(dsn)] = name_of(known)
    return same


def same_tables(one: Session, other: Session) -> bool:
    """Whether two sessions see the same tables: a lock that one holds, the other cannot take.

    A lock is of one database of one running server. Its identifier and its oids are not: a restored copy has the same.
    It is held by a transaction, so also behind a transaction pooler.
    """
    if database_of(one.dsn) == database_of(other.dsn):
        return True
    key = secrets.randbits(62)
    with one.transaction():
        mine = SchemaStore(one).hold(key)
        return SchemaStore(other).sees_held(key) == mine
