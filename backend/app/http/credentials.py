"""Who makes a request: an API key, presented as a bearer token. Only the key determines the tenant."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from app.core.context import correlation_id_var, working_for
from app.db import api_keys
from app.db.api_keys import ApiKey
from app.db.engine import get_engine
from app.http.problems import Problem

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tasks"'}
_bearer = HTTPBearer(scheme_name="ApiKey", description="A key that `./dev keys issue` has shown.", auto_error=False)


#: Seconds for which a key that was valid may send a body. Each transaction still checks whether it may do anything.
FRESH_S = 10.0
#: The number of keys that are remembered.
MOST_KNOWN = 10_000


def _invalid() -> Problem:
    return Problem(401, "unauthenticated", "the API key is not valid, or was revoked", headers=_CHALLENGE)


def _checked(key: str | None) -> str:
    if key is None:
        raise Problem(401, "unauthenticated", "an API key is needed: Authorization: Bearer …", headers=_CHALLENGE)
    if not api_keys.is_formed(key):
        raise _invalid()
    return key


def _presented(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    return _checked(None if credentials is None else credentials.credentials)


class KnownKeys:
    """Finds the tenant of a key before the body of its request is read. Use it in one thread only: the event loop's."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[UUID, float]] = {}
        self._asked: dict[bytes, asyncio.Future[UUID]] = {}

    async def tenant_of(self, authorization: str | None) -> UUID:
        """Return the tenant of an `Authorization` header.

        Raises:
            Problem: 401; the header has no key, or no valid one.
        """
        scheme, value = get_authorization_scheme_param(authorization)
        key = _checked(value if scheme.lower() == "bearer" else None)
        digest = sha256(key.encode()).digest()
        tenant_id, until = self._known.get(digest, (None, 0.0))
        if tenant_id is not None and time.monotonic() < until:
            return tenant_id
        if digest not in self._asked:  # a thousand requests with one key ask the database once
            self._asked[digest] = asyncio.ensure_future(run_in_threadpool(_tenant_of, key))
            self._asked[digest].add_done_callback(lambda _: self._asked.pop(digest))
        tenant_id = await asyncio.shield(self._asked[digest])
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[digest] = tenant_id, time.monotonic() + FRESH_S
        return tenant_id


def _tenant_of(key: str) -> UUID:
    with tenant_transaction(key) as (_, tenant_id):
        return tenant_id


#: A parameter of a route: the key as it was presented, not yet checked.
PresentedKey = Annotated[str, Depends(_presented)]


@contextmanager
def tenant_transaction(key: str) -> Iterator[tuple[Connection, UUID]]:
    """Yield a transaction of the key's tenant, and the tenant. It commits unless the block fails.

    Raises:
        Problem: 401; the key is not valid.
    """
    with key_transaction(key) as (connection, record):
        yield connection, record.tenant_id


@contextmanager
def key_transaction(key: str) -> Iterator[tuple[Connection, ApiKey]]:
    """As `tenant_transaction`, with what may be shown of the key."""
    with get_engine().begin() as connection:
        record = api_keys.authenticate(connection, key)
        if record is None:
            raise _invalid()
        with working_for(record.tenant_id, correlation_id_var.get()):
            yield connection, record
