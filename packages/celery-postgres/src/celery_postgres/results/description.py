"""What a result says of its task beside its state: enough to find it again, and to tell how long it waited and ran."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from uuid import UUID

from celery_postgres.consumer import moments
from celery_postgres.results.columns import LONGEST_ID


def description_of(request: Any) -> dict[str, Any]:
    """The name, the worker, the queue and the retries of a task, as the columns of results can hold them.

    Without the arguments, which Celery's `result_extended` stores as well. Values that a request should not have are
    left out: a broken description costs no result.

    Args:
        request: Celery's, or None where a client or the maintenance stores a state.
    """
    if request is None:
        return {}
    delivery = getattr(request, "delivery_info", None)
    retries = getattr(request, "retries", None)
    return {
        # Of a task that it does not know, Celery has something that is no request, and has its name elsewhere.
        "name": _text(getattr(request, "task", None) or getattr(request, "name", None)),
        "worker": _text(getattr(request, "hostname", None)),
        "queue": _text(delivery.get("routing_key") if isinstance(delivery, dict) else None),
        "retries": retries if type(retries) is int and 0 <= retries < 2**31 else None,
    }


def history_of(request: Any) -> dict[str, Any]:
    """Whose a task is, of which canvas, and when this attempt was published, due and begun.

    Args:
        request: as of `description_of`.
    """
    if request is None:
        return {}
    root_id = getattr(request, "root_id", None)
    tenant_id = getattr(request, "tenant_id", None)
    return {
        "tenant_id": None if tenant_id is None else _uuid(tenant_id),
        "root_id": None if root_id is None or root_id == getattr(request, "id", None) else _id(root_id),
        "parent_id": _id(getattr(request, "parent_id", None)),
        "published_at": moments.published_at(request),
        "due_at": moments.due_at(request),
        "started_at": moments.started_at(request),
    }


def _text(value: Any) -> str | None:
    return _storable(value) if type(value) is str and 0 < len(value) <= LONGEST_ID else None


def _id(value: Any) -> str | None:
    """Without a cache: each task has another one. Celery writes them in ASCII."""
    if type(value) is str and 0 < len(value) <= LONGEST_ID and value.isascii() and "\0" not in value:
        return value
    return None


# A worker has a few names, and checking one takes as long as storing it.
@lru_cache(maxsize=1024)
def _storable(value: str) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return None if "\0" in value else value


def _uuid(value: Any) -> str | None:
    return _parsed(value) if type(value) is str else None


@lru_cache(maxsize=1024)
def _parsed(value: str) -> str | None:
    try:
        return str(UUID(value))
    except ValueError:
        return None
