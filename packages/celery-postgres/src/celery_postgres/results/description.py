"""What a result says of its task beside its state: enough to find it again by name, queue and worker."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

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
        "name": _text(getattr(request, "task", None)),
        "worker": _text(getattr(request, "hostname", None)),
        "queue": _text(delivery.get("routing_key") if isinstance(delivery, dict) else None),
        "retries": retries if type(retries) is int and 0 <= retries < 2**31 else None,
    }


def _text(value: Any) -> str | None:
    return _storable(value) if type(value) is str and 0 < len(value) <= LONGEST_ID else None


# A worker has a few names, and checking one takes as long as storing it.
@lru_cache(maxsize=1024)
def _storable(value: str) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return None if "\0" in value else value
