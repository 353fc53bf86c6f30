"""Which tenant submitted which task, and the state of it. Works in a transaction of that tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from app.db.advisory import try_transaction_lock
from celery_postgres import operations

#: There is no result yet; the message waits, or a worker has claimed it.
PENDING = "PENDING"
#: There is neither a message nor a result: the result has expired, or the message was dead-lettered.
UNKNOWN = "UNKNOWN"

# The conditions on the tenant repeat the row-level security policy, so that every plan uses the index.
_ADD = text("""
    INSERT INTO public.task_submission (tenant_id, task_id, name, idempotency_key, fingerprint)
    VALUES (:tenant_id, :task_id, :name, :idempotency_key, :fingerprint)
    RETURNING created_at
""")
_BY_KEY = text("""
    SELECT task_id, fingerprint FROM public.task_submission
    WHERE tenant_id = :tenant_id AND idempotency_key = :idempotency_key
""")
_ONE = text("""
    SELECT task_id, name, created_at FROM public.task_submission
    WHERE tenant_id = :tenant_id AND task_id = :task_id
""")
_NEWEST = text("""
    SELECT task_id, name, created_at FROM public.task_submission
    WHERE tenant_id = :tenant_id
    ORDER BY created_at DESC, task_id DESC
    LIMIT :limit
""")
_OLDER = text("""
    SELECT task_id, name, created_at FROM public.task_submission
    WHERE tenant_id = :tenant_id AND (created_at, task_id) < (:created_at, :task_id)
    ORDER BY created_at DESC, task_id DESC
    LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class Submitted:
    """A submitted task and its state.

    Attributes:
        task_id: Celery's id of the task.
        name: which task it is.
        created_at: when it was submitted.
        state: Celery's state, or `UNKNOWN`.
        done_at: when the state was stored, in UTC; None without a result.
        result: the bytes that Celery stored, for `operations.load_result`.
    """

    task_id: str
    name: str
    created_at: datetime
    state: str
    done_at: datetime | None
    result: bytes | None


def add(
    connection: Connection,
    tenant_id: UUID,
    task_id: str,
    name: str,
    *,
    idempotency_key: str | None = None,
    fingerprint: bytes | None = None,
) -> datetime:
    """Record a submission. Returns the time of it."""
    created_at: datetime = connection.execute(
        _ADD,
        {
            "tenant_id": tenant_id,
            "task_id": task_id,
            "name": name,
            "idempotency_key": idempotency_key,
            "fingerprint": fingerprint,
        },
    ).scalar_one()
    return created_at


def reserve(connection: Connection, tenant_id: UUID, idempotency_key: str) -> bool:
    """Lock this key until the transaction ends. Returns False at once if another transaction has locked it."""
    return try_transaction_lock(connection, f"skeldir.submission {tenant_id} {idempotency_key}")


def find_by_key(connection: Connection, tenant_id: UUID, idempotency_key: str) -> tuple[str, bytes] | None:
    """The task that was submitted with this key, and the fingerprint of the submission."""
    row = connection.execute(_BY_KEY, {"tenant_id": tenant_id, "idempotency_key": idempotency_key}).one_or_none()
    return None if row is None else (row.task_id, bytes(row.fingerprint))


def find(connection: Connection, tenant_id: UUID, task_id: str) -> Submitted | None:
    """One task of the tenant; None if the tenant has no such task."""
    rows = connection.execute(_ONE, {"tenant_id": tenant_id, "task_id": task_id}).all()
    return next(iter(_with_states(connection, rows)), None)


def is_of(connection: Connection, tenant_id: UUID, task_id: str) -> bool:
    """Whether the tenant submitted this task."""
    return connection.execute(_ONE, {"tenant_id": tenant_id, "task_id": task_id}).first() is not None


def newest(
    connection: Connection, tenant_id: UUID, limit: int, after: tuple[datetime, str] | None = None
) -> Sequence[Submitted]:
    """The tenant's tasks, the newest first.

    Args:
        limit: how many at most.
        after: `created_at` and `task_id` of the task after which the list begins; None for the newest.
    """
    parameters: dict[str, Any] = {"tenant_id": tenant_id, "limit": limit}
    if after is None:
        rows = connection.execute(_NEWEST, parameters).all()
    else:
        rows = connection.execute(_OLDER, parameters | {"created_at": after[0], "task_id": after[1]}).all()
    return _with_states(connection, rows)


def _with_states(connection: Connection, rows: Sequence[Any]) -> list[Submitted]:
    if not rows:
        return []
    states = operations.task_states(connection, [row.task_id for row in rows])
    return [
        Submitted(row.task_id, row.name, row.created_at, found.state or UNKNOWN, found.done_at, found.result)
        for row in rows
        for found in [states[row.task_id]]
    ]
