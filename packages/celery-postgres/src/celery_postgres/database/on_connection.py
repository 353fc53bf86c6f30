"""What only reads, on a connection of the caller: a part of `celery_postgres.operations`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from celery_postgres.database.borrowed import BorrowedConnection
from celery_postgres.database.limit_store import KeyStatus, LimitStore
from celery_postgres.database.monitor_store import MonitorStore, TaskState


def monitor(connection: Any) -> MonitorStore:
    """What metrics and pages show, read on the caller's connection, in the transaction that it has there.

    Until that transaction ends, it has the rights of the role `celery_monitor` and no others (if `roles.sql` was run
    and the connection's role is a member), and it plans by index. Make it read-only, with a time-out.

    Args:
        connection: a psycopg2 connection, or a SQLAlchemy `Connection` driven by psycopg2.
    """
    store = MonitorStore(BorrowedConnection(connection))
    store.begin()
    return store


def is_usable(connection: Any) -> bool:
    """Whether the role of the caller's connection may consume from the broker. Reads no message."""
    return MonitorStore(BorrowedConnection(connection)).is_usable()


def waiting_by_tenant(connection: Any, queue: str, *, cap: int) -> dict[UUID | None, int]:
    """The waiting messages of a queue by tenant (the header `tenant_id`), scheduled ones included.

    Args:
        connection: of the caller, as for `monitor`.
        queue: its name.
        cap: reading ends at so many messages without a time, and at so many with one.
    """
    return MonitorStore(BorrowedConnection(connection)).waiting_by_tenant(queue, cap=cap)


def key_status(connection: Any, queues: Sequence[str], key: str, *, cap: int) -> list[KeyStatus]:
    """The limits of a key in those of these queues that are fair, and what waits and runs of it.

    Args:
        connection: of the caller, as for `monitor`.
        key: the text; a tenant's is its id. It is for the caller to know whom it may be shown to.
        cap: where counting stops, for each queue and state.
    """
    return LimitStore(BorrowedConnection(connection)).status(queues, key, cap=cap)


def task_states(connection: Any, task_ids: Sequence[str]) -> dict[str, TaskState]:
    """The state and the stored result of each task, by its id, in one statement.

    Args:
        connection: of the caller, as for `monitor`; its database holds the broker and the results.
        task_ids: whose. It is for the caller to know whom they may be shown to.
    """
    return MonitorStore(BorrowedConnection(connection)).task_states(task_ids)
