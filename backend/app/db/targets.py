"""What maintenance may change: the only list of tables, columns and actions.

A policy row only selects from this list. The CHECK constraints of the policy tables repeat it, and a test compares
them. To add a table, add an entry here and a migration that widens the two constraints.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    MetaData,
    Table,
    Text,
    Uuid,
    literal,
    null,
)
from sqlalchemy.dialects.postgresql import INET, JSONB

from app.core.errors import LoggableError

REDACTED = "[redacted]"
#: The form of a value that `hash` has written; such a value is not hashed again.
HASHED = r"^hmac-sha256:[0-9a-f]{64}$"


class HashKeyMissingError(LoggableError, LookupError):
    """A policy hashes, and the setting that it needs is missing. Permanent; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A table of the application with the columns `tenant_id` and `id`.

    Attributes:
        aged_by: the column from which a row's age counts.
        actions: for each column with personal data, what a policy may do to it.
    """

    table: Table
    aged_by: Column[Any]
    actions: Mapping[str, frozenset[str]]


customer_event = Table(
    "customer_event",
    MetaData(schema="public"),
    Column("id", BigInteger, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("email", Text),
    Column("ip", INET),
    Column("payload", JSONB, nullable=False),
)

TARGETS: Mapping[str, Target] = {
    "customer_event": Target(
        table=customer_event,
        aged_by=customer_event.c.occurred_at,
        actions={
            "email": frozenset({"null", "redact", "hash"}),
            "ip": frozenset({"null"}),
            "payload": frozenset({"redact"}),
        },
    ),
}


@dataclass(frozen=True, slots=True)
class Scrub:
    """How one column is scrubbed: which rows still need it, and their new value.

    Attributes:
        replacement: the same for every row, or a function of the row's value.
    """

    needed: ColumnElement[bool]
    replacement: ColumnElement[Any] | Callable[[str], str]


def scrub(column: Column[Any], action: str, key: bytes | None) -> Scrub:
    """Return the conditions and values of `action`; doing it twice changes nothing.

    Args:
        key: the tenant's key (`tenant_key`), for `hash`.

    Raises:
        HashKeyMissingError: `hash` without a key.
    """
    if action == "null":
        return Scrub(column.is_not(None), null())
    if action == "redact":
        blank: ColumnElement[Any] = literal({} if isinstance(column.type, JSONB) else REDACTED, column.type)
        return Scrub(column != blank, blank)
    if key is None:
        raise HashKeyMissingError("a pii_policy uses the action hash, which needs MAINTENANCE_HASH_KEY")
    return Scrub(column.regexp_match(HASHED).is_(False) & (column != REDACTED), lambda value: _hmac_sha256(value, key))


def tenant_key(secret: str, tenant_id: UUID) -> bytes:
    """Derive a key for the tenant, so that equal values of two tenants cannot be linked."""
    return hmac.digest(secret.encode(), tenant_id.bytes, hashlib.sha256)


def _hmac_sha256(value: str, key: bytes) -> str:
    """The hash is keyed, because a list of addresses is enough to reverse a plain hash of an address. This process
    computes it, so that the key never reaches the server's logs.
    """
    return "hmac-sha256:" + hmac.digest(key, value.encode(), hashlib.sha256).hex()
