"""The columns of a message beside its payload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_postgres.database.keys import (
    key_or_none,
    readable_key,
    readable_tenant,
    tenant_of,
    text_or_none,
    uuid_or_none,
)
from celery_postgres.database.payload import IDS, encode, plain
from celery_postgres.database.unique import Unique, unique_of
from celery_postgres.errors import FlowError

TRANSIENT = 1
#: 3,170 years; a longer time to live is shortened to it, because PostgreSQL's dates end in the year 294276.
MAX_TTL_MS = 10**14
#: Characters, of up to 4 bytes each.
MAX_TASK_ID_LENGTH = 250
#: Headers that say how a message holds its unique key.
_OF_UNIQUE = ("unique_key", "debounce", "unique_until", "unique_conflict")


@dataclass(frozen=True, slots=True)
class Envelope:
    """The columns of a message, from its headers and properties, whose types are not trusted.

    Attributes:
        eta: the earliest time of delivery, in UTC.
        ttl_ms: AMQP's expiration.
        durable: `yes`, or `no` for a transient message, whose publish does not wait for the disk.
        flow_key: whose turn the message takes in a fair queue. None if its tenant is no key: a fair queue refuses it.
        unique: how the message holds its unique key, if it has one.
        admitted: no rate limit refuses it at publish: its place has been taken, or it is a retry, whose task is lost if
            it is refused.
        in_order: in a fair queue it runs after all older messages of its key that are in order, and alone.
        is_retry: its task has run before, and asks for another attempt.
    """

    payload: str
    priority: int
    task_id: str | None
    tenant_id: str | None
    eta: datetime | None
    ttl_ms: int | None
    durable: str
    flow_key: str | None = ""
    unique: Unique | None = None
    admitted: bool = False
    in_order: bool = False
    is_retry: bool = False

    @property
    def is_soon(self) -> bool:
        """Whether a consumer that sleeps should be woken for it, and not wait for its own alarm."""
        return self.eta is None or self.eta < datetime.now(UTC) + timedelta(seconds=2)

    @classmethod
    def of(cls, message: dict[str, Any], priority: int) -> Envelope:
        """The columns of a message that is published.

        Raises:
            FlowError: its `flow_key` or its `unique_key` is no key, or another header of `Flow` is wrong. Not a retry,
                whose task would be lost.
        """
        headers = message.get("headers") or {}
        properties = message.get("properties") or {}
        task_id, tenant_id = _short(text_or_none(plain(headers.get("id")))), uuid_or_none(headers.get("tenant_id"))
        unique, is_retry = None, bool(headers.get("retries"))
        if any(headers.get(name) is not None for name in _OF_UNIQUE):
            tenant = readable_tenant(headers) if is_retry or headers.get("unique_key") is None else tenant_of(headers)
            unique = unique_of(headers, task_id, tenant, parse_time(headers.get("expires")))
        in_order = is_in_order(headers)
        return cls(
            payload=encode(message if unique is None or unique.marker is None else _marked(message, unique.marker)),
            priority=0 if in_order else priority,
            task_id=task_id,
            tenant_id=tenant_id,
            eta=_earliest(parse_time(headers.get("eta")), parse_time(headers.get("expires"))),
            # Celery sends its own `expires` as an AMQP expiration too. Celery handles it: the task is delivered, and
            # Celery revokes it. Otherwise a client that waits for its result would wait forever.
            ttl_ms=None if headers.get("expires") is not None else _milliseconds(properties.get("expiration")),
            durable="no" if properties.get("delivery_mode") == TRANSIENT else "yes",
            flow_key=readable_key(headers) if is_retry else key_or_none(headers),
            unique=unique,
            admitted=is_retry,
            in_order=in_order,
            is_retry=is_retry,
        )

    def without_unique_key(self) -> Envelope:
        """The same message, published whatever other messages there are, and whatever its tenant is."""
        if self.unique is None:
            return self if self.flow_key is not None else replace(self, flow_key="")
        marker, payload = self.unique.marker, self.payload
        if marker is not None:
            payload = payload.replace(f'"{marker}"', json.dumps(self.task_id))
        return replace(self, payload=payload, unique=None, flow_key=self.flow_key or "")


#: A message, and the queue that it goes to.
Addressed = tuple[str, Envelope]


def parameters(envelope: Envelope) -> dict[str, Any]:
    """The parameters of a statement that takes one message, without its queue."""
    return {
        "payload": envelope.payload,
        "priority": envelope.priority,
        "task_id": envelope.task_id,
        "tenant_id": envelope.tenant_id,
        "eta": envelope.eta,
        "ttl_ms": envelope.ttl_ms,
        "flow_key": envelope.flow_key,
        "in_order": envelope.in_order or None,
        "admitted": envelope.admitted,
        "durable": envelope.durable,
    }


def columns(envelopes: list[Envelope]) -> dict[str, list[Any]]:
    """The parameters of a statement that takes many messages, without their queues."""
    return {
        "payloads": [one.payload for one in envelopes],
        "priorities": [one.priority for one in envelopes],
        "task_ids": [one.task_id for one in envelopes],
        "tenant_ids": [one.tenant_id for one in envelopes],
        "etas": [one.eta for one in envelopes],
        "ttls_ms": [one.ttl_ms for one in envelopes],
        "flow_keys": [one.flow_key for one in envelopes],
        "in_orders": [one.in_order or None for one in envelopes],
    }


def is_in_order(headers: Mapping[str, Any]) -> bool:
    """Whether a message with these headers runs in the order of its key.

    Raises:
        FlowError: the header is neither true nor false, or the message has a unique key too.
    """
    given = headers.get("flow_ordered")
    if given is None:
        return False
    if not isinstance(given, bool):
        raise FlowError(f"flow_ordered is true or false, not {type(given).__name__}")
    if given and (headers.get("unique_key") is not None or headers.get("debounce") is not None):
        raise FlowError("a task is ordered or unique, and not both: limit the key to a concurrency of 1 instead")
    return given


def _marked(message: dict[str, Any], marker: str) -> dict[str, Any]:
    """The same message with a marker where the id of its task is."""
    headers, properties = message["headers"], message.get("properties") or {}
    task_id = headers["id"]
    return {
        **message,
        "headers": {name: marker if name in IDS and value == task_id else value for name, value in headers.items()},
        "properties": {
            name: marker if name in IDS and value == task_id else value for name, value in properties.items()
        },
    }


def parse_time(value: Any) -> datetime | None:
    """The time of a header `eta` or `expires`, in UTC: Python knows offsets that PostgreSQL does not.

    None if there is no header, or an unreadable one, which Celery reports.
    """
    if not isinstance(value, str):
        return None
    try:
        eta = datetime.fromisoformat(value)
        return eta.astimezone(UTC) if eta.tzinfo else eta.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def is_due(message: dict[str, Any]) -> bool:
    """Whether a delivered message has an ETA that has come: then Celery's timer must not hold it again."""
    headers = message.get("headers")
    if not headers or headers.get("eta") is None:
        return False
    eta, expires = parse_time(headers["eta"]), parse_time(headers.get("expires"))
    if eta is None:
        return False  # unreadable: Celery rejects the message, and reports it
    # A task that expires before its ETA is delivered early, to be revoked: if the worker's clock is behind, Celery must
    # hold it.
    return expires is None or expires >= eta


def _short(text: str | None) -> str | None:
    """None if the text is too long for an index: then the message cannot be found by it."""
    return text if text is not None and len(text) <= MAX_TASK_ID_LENGTH else None


def _earliest(eta: datetime | None, expires: datetime | None) -> datetime | None:
    """The earlier of both, because a task that expires before its ETA is not kept until then."""
    return min(eta, expires) if eta is not None and expires is not None else eta


def _milliseconds(value: Any) -> int | None:
    try:
        return min(max(0, int(value)), MAX_TTL_MS) if value is not None else None
    except (TypeError, ValueError, OverflowError):
        return None
