"""What maintenance may touch: the one list of tables, columns and actions.

A policy row only chooses among these; the CHECK constraints of the policy tables repeat the list (a test compares
them). To add a table: an entry here, and a migration that widens the two constraints.
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
#: What `hash` leaves behind; a value of this form is not hashed again.
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
    """How one column is scrubbed: which rows still need it, and what they get instead.

    Attributes:
        replacement: the same for every row, or what makes it of a row's value.
    """

    needed: ColumnElement[bool]
    replacement: ColumnElement[Any] | Callable[[str], str]


def scrub(column: Column[Any], action: str, key: bytes | None) -> Scrub:
    """The conditions and values of `action`; doing it twice changes nothing.

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
        raise HashKeyMissingError("a pii_policy asks for the action hash, which needs MAINTENANCE_HASH_KEY")
    return Scrub(column.regexp_match(HASHED).is_(False) & (column != REDACTED), lambda value: _hmac_sha256(value, key))


def tenant_key(secret: str, tenant_id: UUID) -> bytes:
    """A key of the tenant's own, so that equal values of two tenants cannot be linked."""
    return hmac.digest(secret.encode(), tenant_id.bytes, hashlib.sha256)


def _hmac_sha256(value: str, key: bytes) -> str:
    """Keyed, because whoever has a list of addresses can turn a plain hash of an address back. Computed here: the key
    stays in this process, where the server's logs do not reach."""
    return "hmac-sha256:" + hmac.digest(key, value.encode(), hashlib.sha256).hex()
