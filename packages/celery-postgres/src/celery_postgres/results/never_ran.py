"""Tasks that never ran because another has failed: the rest of a chain, and the body of a chord.

Celery stores the failure as theirs, without a request that would say whose it is. So what fails notes itself while that
is stored, in its thread: then their results have a name, and name the one that failed as their parent.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_postgres.results.columns import short
from celery_postgres.results.description import history_of


@dataclass(frozen=True, slots=True)
class Cause:
    """What has failed.

    Attributes:
        task_id: its id.
        root_id, tenant_id: of its canvas.
        names: of tasks that fail with it, by their ids.
    """

    task_id: str
    root_id: str | None = None
    tenant_id: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


_thread = threading.local()


@contextlib.contextmanager
def because_of(cause: Cause | None) -> Iterator[None]:
    """What is stored in the block fails because of this; with None, because of what it did before."""
    outer = getattr(_thread, "cause", None)
    _thread.cause = cause or outer
    try:
        yield
    finally:
        _thread.cause = outer


def cause_of(task_id: Any, request: Any) -> Cause | None:
    """The task of a request, as a cause."""
    if request is None or not isinstance(task_id, str):
        return None
    root_id = getattr(request, "root_id", None)
    return Cause(task_id, short(root_id) if isinstance(root_id, str) else None, history_of(request).get("tenant_id"))


def told(task_id: Any, described: dict[str, Any], history: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of a task, with what its cause adds if it never ran.

    Args:
        task_id: of the task.
        described: as of `description_of`.
        history: as of `history_of`.
    """
    cause: Cause | None = getattr(_thread, "cause", None)
    if cause is None or cause.task_id == task_id:
        return described, history
    added = {
        "root_id": history.get("root_id") or cause.root_id or cause.task_id,
        "parent_id": cause.task_id,
        "tenant_id": history.get("tenant_id") or cause.tenant_id,
        "started_at": None,
    }
    return {**described, "name": described.get("name") or cause.names.get(task_id), "worker": None}, {
        **history,
        **added,
    }
