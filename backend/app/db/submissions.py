"""Which tenant submitted which task, and what became of it. On a transaction that is the tenant's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from app.db.advisory import try_transaction_lock

#: No result yet, and its message waits or is being worked on.
PENDING = "PENDING"
#: Neither a message nor a result: the result has expired, or the message has become a dead letter.
UNKNOWN = "UNKNOWN"

# The conditions on the tenant repeat what row-level security says, so that the index is found whatever the plan.
_ADD = text("""
    INSERT INTO public.task_submission (tenant_id, task_id, name, idempotency_key, fingerprint)
    VALUES (:tenant_id, :task_id, :name, :idempotency_key, :fingerprint)
    RETURNING created_at
""")
_BY_KEY = text("""
    SELECT task_id, fingerprint FROM public.task_submission
    WHERE tenant_id = :tenant_id AND idempotency_key = :idempotency_key
""")
# Python has no word for times outside of those years, and "infinity" may stand there too.
_STATE = """
    SELECT submission.task_id, submission.name, submission.created_at,
        coalesce(meta.status, CASE WHEN EXISTS (
            SELECT FROM public.kombu_message AS message WHERE message.task_id = submission.task_id
        ) THEN :pending ELSE :unknown END) AS state,
        CASE WHEN meta.date_done BETWEEN '0001-01-02' AND '9999-12-30' THEN meta.date_done END AS date_done, meta.result
    FROM public.task_submission AS submission
    LEFT JOIN public.celery_taskmeta AS meta ON meta.task_id = submission.task_id
"""
_WORDS = {"pending": PENDING, "unknown": UNKNOWN}
_ONE = text(_STATE + "WHERE submission.tenant_id = :tenant_id AND submission.task_id = :task_id")
_NEWEST = text(
    _STATE
    + """
    WHERE submission.tenant_id = :tenant_id
    ORDER BY submission.created_at DESC, submission.task_id DESC
    LIMIT :most
"""
)
_OLDER = text(
    _STATE
    + """
    WHERE submission.tenant_id = :tenant_id AND (submission.created_at, submission.task_id) < (:created_at, :task_id)
    ORDER BY submission.created_at DESC, submission.task_id DESC
    LIMIT :most
"""
)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task as the database has it; `result` is what Celery stored, not yet read."""

    task_id: str
    name: str
    created_at: datetime
    state: str
    date_done: datetime | None
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
    """Note a submission; when that was."""
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
    """Be the only one who handles this key until the transaction ends; False, at once, if somebody else does."""
    return try_transaction_lock(connection, f"skeldir.submission {tenant_id} {idempotency_key}")


def find_by_key(connection: Connection, tenant_id: UUID, idempotency_key: str) -> tuple[str, bytes] | None:
    """The task that was submitted under this key, and the fingerprint of what was submitted."""
    row = connection.execute(_BY_KEY, {"tenant_id": tenant_id, "idempotency_key": idempotency_key}).one_or_none()
    return None if row is None else (row.task_id, bytes(row.fingerprint))


def find(connection: Connection, tenant_id: UUID, task_id: str) -> Submitted | None:
    """One task of the tenant; None if it has no such task."""
    row = connection.execute(_ONE, {**_WORDS, "tenant_id": tenant_id, "task_id": task_id}).one_or_none()
    return None if row is None else _submitted(row)


def newest(
    connection: Connection, tenant_id: UUID, most: int, after: tuple[datetime, str] | None = None
) -> Sequence[Submitted]:
    """The tenant's tasks, the newest first; after the one with that `created_at` and `task_id`, if given."""
    parameters: dict[str, Any] = {**_WORDS, "tenant_id": tenant_id, "most": most}
    if after is None:
        rows = connection.execute(_NEWEST, parameters)
    else:
        rows = connection.execute(_OLDER, parameters | {"created_at": after[0], "task_id": after[1]})
    return [_submitted(row) for row in rows]


def _submitted(row: Any) -> Submitted:
    result = None if row.result is None else bytes(row.result)
    return Submitted(row.task_id, row.name, row.created_at, row.state, row.date_done, result)
