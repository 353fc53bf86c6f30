"""The context of a log line: the task, its queue, its tenant."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from celery import current_task

from app.core.context import (
    CORRELATION_HEADER,
    CORRELATION_ID_MAX,
    TENANT_HEADER,
    correlation_id_var,
    tenant_id_var,
)
from app.observability import requests
from app.observability.celery_lines import name_or_none
from app.observability.queues import queue_of

FIELDS = ("task_id", "task_name", "queue", "retries", "tenant_id", "correlation_id")


def current(said: Mapping[str, Any]) -> dict[str, Any]:
    """The context fields of a line that this thread logs now; fields without a value are left out.

    In a task's body, tenant and correlation id come from the contextvars. Around it (Celery's lines before and after)
    they come from the message's headers, or from its keyword arguments if the producer does not use `ContextTask`. In a
    pool's main process, the task is the one whose id the line contains, or whose outcome is being handled.

    Args:
        said: fields that the line itself contains.
    """
    fields = _of_running_task() or _of_request(said.get("task_id"))
    fields = {**said, **fields}
    tenant, correlation = tenant_id_var.get(), correlation_id_var.get()
    if tenant is not None:
        fields["tenant_id"] = str(tenant)
    if _is_correlation_id(correlation):
        fields["correlation_id"] = correlation
    return fields


def _of_running_task() -> dict[str, Any]:
    task = current_task
    request = task.request if task else None
    if not request or not request.id:
        return {}
    return {
        "task_id": name_or_none(request.id),
        "task_name": task.name,
        "queue": queue_of(task.app, request.delivery_info),
        "retries": request.retries,
    } | _of_message(request, request.kwargs)


def _of_request(task_id: Any) -> dict[str, Any]:
    request = requests.find_request(task_id) if task_id else requests.handled_request.get()
    if request is None:
        return {}
    return {
        "task_id": name_or_none(request.id),
        "task_name": request.task.name,
        "queue": queue_of(request.app, request.delivery_info),
        "retries": request.request_dict.get("retries"),
    } | _of_message(request.request_dict, request.kwargs)


def _of_message(headers: Any, arguments: Any) -> dict[str, Any]:
    """Tenant and correlation id, if they are well-formed: both are the sender's text."""
    found: dict[str, Any] = {}
    given = arguments if isinstance(arguments, Mapping) else {}
    with suppress(ValueError, TypeError, AttributeError):
        found["tenant_id"] = str(UUID(headers.get(TENANT_HEADER) or given.get("tenant_id")))
    correlation = headers.get(CORRELATION_HEADER) or given.get("correlation_id")
    if _is_correlation_id(correlation):
        found["correlation_id"] = correlation
    elif isinstance(task_id := headers.get("id"), str):
        found["correlation_id"] = name_or_none(task_id)  # as in a task's context
    return found


def _is_correlation_id(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= CORRELATION_ID_MAX and value.isprintable()
