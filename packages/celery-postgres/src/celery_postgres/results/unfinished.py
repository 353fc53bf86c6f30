"""Which tasks of this worker have not ended."""

from __future__ import annotations

from collections.abc import Collection

from celery_postgres.compat.upstream import worker_state
from celery_postgres.consumer import registry
from celery_postgres.results.write import Write

#: With more tasks in the worker others will end soon, and looking through them would take longer than it saves.
_FEW = 16


def includes_all(writes: Collection[Write]) -> bool:
    """Whether these include the result of each task that this worker has, so that no other result will come soon.
    Called when the task of the last one has just ended, and Celery still counts it."""
    state = worker_state()
    if state is None or not 0 < len(state.reserved_requests) <= _FEW:
        return False
    try:
        if any(heartbeat.holds_messages for heartbeat in registry.heartbeats()):
            return False
        requests = list(state.reserved_requests)
    except RuntimeError:  # another thread begins or ends a task at this moment, in a set that refuses to be read then
        return False
    ended = {one.task_id for write in writes for one in write.outcomes}
    ended |= {one.task_id for write in writes for one in write.parts}
    return all(request.id in ended for request in requests)
