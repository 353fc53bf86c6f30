"""API keys: a request that presents one acts for its tenant.

A key is `sk_<id>_<secret>`. The id finds its row; the SHA-256 of the whole key proves it. This process compares the
hash, not the database: neither the key nor its hash is ever in a statement, and the key itself is not stored.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from app.core.errors import LoggableError
from app.db.tenancy import set_tenant_guc
from app.db.unlogged import unlogged

#: The policy `key_lookup` shows the row with this id.
KEY_GUC = "app.api_key_id"
LONGEST_NAME = 100

_KEY = re.compile(r"sk_([0-9a-f]{32})_[A-Za-z0-9_-]{43}", re.ASCII)
_NOBODYS = bytes(32)

_NAME_IT = text("SELECT set_config(:name, :value, true)")
_FIND = text("SELECT id, tenant_id, name, digest, created_at, revoked_at FROM public.api_key WHERE id = :id")
_ADD = text("""
    INSERT INTO public.api_key (id, tenant_id, name, digest) VALUES (:id, :tenant_id, :name, lo_get(:digest))
    RETURNING id, tenant_id, name, created_at, revoked_at
""")
_LIST = text("""
    SELECT id, tenant_id, name, created_at, revoked_at FROM public.api_key WHERE tenant_id = :tenant_id
    ORDER BY created_at, id
""")
_REVOKE = text("""
    UPDATE public.api_key SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL
    RETURNING id, tenant_id, name, created_at, revoked_at
""")


class KeyNameError(LoggableError, ValueError):
    """The name is not valid for a key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it may be shown: without its secret."""

    id: UUID
    tenant_id: UUID
    name: str
    created_at: datetime
    revoked_at: datetime | None


def issue(connection: Connection, tenant_id: UUID, name: str) -> tuple[ApiKey, str]:
    """Create a key of `tenant_id` and return it with its only copy. The transaction then belongs to the tenant.

    Raises:
        KeyNameError: `name` is empty, too long or not printable.
    """
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise KeyNameError(f"the name of a key is printable text of 1 to {LONGEST_NAME} characters")
    key_id = uuid4()
    key = f"sk_{key_id.hex}_{secrets.token_urlsafe(32)}"
    set_tenant_guc(connection, tenant_id, local=True)
    with unlogged(connection, _digest(key)) as digest:
        row = connection.execute(_ADD, {"id": key_id, "tenant_id": tenant_id, "name": name, "digest": digest}).one()
    return ApiKey(*row), key


def is_formed(key: str) -> bool:
    """Whether the text has the form of a key; if not, the database need not be asked."""
    return _KEY.fullmatch(key) is not None


def authenticate(connection: Connection, key: str) -> ApiKey | None:
    """Return the presented key, if it was issued and not revoked. The transaction then belongs to its tenant."""
    made_like_one = _KEY.fullmatch(key)
    row = _find(connection, UUID(made_like_one[1])) if made_like_one else None
    # Compared in constant time, even if the key does not exist.
    proven = hmac.compare_digest(_digest(key), bytes(row.digest) if row is not None else _NOBODYS)
    if row is None or not proven or row.revoked_at is not None:
        return None
    set_tenant_guc(connection, row.tenant_id, local=True)
    return ApiKey(row.id, row.tenant_id, row.name, row.created_at, row.revoked_at)


def find(connection: Connection, key_id: UUID) -> ApiKey | None:
    """Return the key with this id, if it is not revoked: for a session that its holder began with the whole key."""
    row = _find(connection, key_id)
    if row is None or row.revoked_at is not None:
        return None
    return ApiKey(row.id, row.tenant_id, row.name, row.created_at, row.revoked_at)


def list_keys(connection: Connection, tenant_id: UUID) -> list[ApiKey]:
    """All keys of a tenant, oldest first. The transaction then belongs to the tenant."""
    set_tenant_guc(connection, tenant_id, local=True)
    return [ApiKey(*row) for row in connection.execute(_LIST, {"tenant_id": tenant_id})]


def revoke(connection: Connection, key_id: UUID) -> ApiKey | None:
    """Invalidate a key from the commit on. Return None if it does not exist or is already revoked."""
    row = _find(connection, key_id)
    if row is None:
        return None
    set_tenant_guc(connection, row.tenant_id, local=True)
    revoked = connection.execute(_REVOKE, {"id": key_id}).one_or_none()
    return None if revoked is None else ApiKey(*revoked)


def _find(connection: Connection, key_id: UUID) -> Any:
    connection.execute(_NAME_IT, {"name": KEY_GUC, "value": str(key_id)})
    return connection.execute(_FIND, {"id": key_id}).one_or_none()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
