"""The tenant and the correlation id that this thread works for at the moment.

ContextVars outlive a task in every pool: solo and prefork run all tasks in one context, and a threads pool keeps its
threads. So the code that sets them must reset them by token; `app.tasks.context` does both around each task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID

tenant_id_var: ContextVar[UUID | None] = ContextVar("tenant_id", default=None)
correlation_id_var: ContextVar[str | None] = ContextVar("correlation_id", default=None)

#: Message headers that carry both from the publisher to the worker.
TENANT_HEADER = "tenant_id"
#: Not the `correlation_id` property of Celery and AMQP: Celery puts the task id there.
CORRELATION_HEADER = "x-correlation-id"
#: Seconds since the epoch, by the publisher's clock; the worker measures the wait in the queue from it.
ENQUEUED_HEADER = "x-enqueued-at"
CORRELATION_ID_MAX = 128


@contextmanager
def working_for(tenant_id: UUID | None, correlation_id: str | None) -> Iterator[None]:
    """Set both variables to exactly these values within the block, and restore the old values after it."""
    tenant = tenant_id_var.set(tenant_id)
    correlation = correlation_id_var.set(correlation_id)
    try:
        yield
    finally:
        correlation_id_var.reset(correlation)
        tenant_id_var.reset(tenant)
