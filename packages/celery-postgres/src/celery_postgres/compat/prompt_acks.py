"""A worker without an event loop (gevent, eventlet), whose acks wait for two seconds.

Its greenlets hand acks and rejects to the main one, which does them between two calls of `drain_events(timeout=2.0)`
(`synloop` in `celery.worker.loops`). A worker whose prefetch is used up gets no message that would end the call before,
because it lacks just these acks. Here what is handed over ends the call. Unnecessary once Celery's consumer does that.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any


def install() -> None:
    """Patch the consumer, if it is loaded. Calling it again changes nothing."""
    loaded: Any = sys.modules.get("celery.worker.consumer.consumer")
    if loaded is not None and not hasattr(loaded.Consumer.call_soon, "celery_postgres"):
        loaded.Consumer.call_soon = _ending_the_wait(loaded.Consumer.call_soon)


def _ending_the_wait(original: Any) -> Any:
    @wraps(original)
    def call_soon(self: Any, *args: Any, **kwargs: Any) -> Any:
        handed_over = original(self, *args, **kwargs)
        if not self.hub and self.connection is not None:
            # Only ours has it; `transport` would make a new one, so it is read where Kombu keeps it.
            end = getattr(getattr(self.connection, "_transport", None), "end_drain", None)
            if end is not None:
                end()
        return handed_over

    call_soon.celery_postgres = True  # type: ignore[attr-defined]
    return call_soon
