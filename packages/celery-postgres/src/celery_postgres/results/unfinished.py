"""Which tasks of this worker have not ended."""

from __future__ import annotations

from celery_postgres.compat.upstream import worker_state
from celery_postgres.consumer import registry


def includes_all(results: int) -> bool:
    """Whether so many results include that of each task that this worker has, so that no other will come soon. Called
    when the task of the last one has just ended, and Celery still counts it."""
    state = worker_state()
    if state is None or not 0 < len(state.reserved_requests) <= results:
        return False
    return not any(heartbeat.holds_messages for heartbeat in registry.heartbeats())
