"""Whose request it is: an API key, presented as a bearer token. The tenant comes from it and from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Connection

from app.core.context import correlation_id_var, working_for
from app.db import api_keys
from app.db.engine import get_engine
from app.http.problems import Problem

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tasks"'}
_bearer = HTTPBearer(scheme_name="ApiKey", description="A key that `./dev keys issue` has shown.", auto_error=False)


def _presented(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    if credentials is None:
        raise Problem(401, "unauthenticated", "an API key is needed: Authorization: Bearer …", headers=_CHALLENGE)
    return credentials.credentials


#: A parameter of a route: the key as it was presented, not yet looked at.
PresentedKey = Annotated[str, Depends(_presented)]


@contextmanager
def tenant_transaction(key: str) -> Iterator[tuple[Connection, UUID]]:
    """A transaction of the tenant whose key it is, and which tenant that is. Commits unless the block fails.

    Raises:
        Problem: 401; the key is no valid one.
    """
    with get_engine().begin() as connection:
        record = api_keys.authenticate(connection, key)
        if record is None:
            raise Problem(401, "unauthenticated", "the API key is not valid, or was revoked", headers=_CHALLENGE)
        with working_for(record.tenant_id, correlation_id_var.get()):
            yield connection, record.tenant_id
