"""A row of `kombu_message`, from its payload to the message for Celery: it is delivered or becomes a dead letter."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from psycopg2.extensions import adapt

from celery_postgres.broker.channel import Channel
from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.delivery import message_of
from celery_postgres.consumer.outlet import Subscription
from celery_postgres.consumer.screening import screen
from celery_postgres.database.dead_letter import FlawedMessageError
from celery_postgres.database.envelope import MAX_TTL_MS, Envelope
from celery_postgres.database.message_store import ClaimedMessage, MessageStore
from celery_postgres.database.payload import decode, encode
from fuzz.values import value_of

_QUEUE = 1
_OF_CELERY: dict[str, Any] = {
    "body": "W1tdLCB7fSwge31d",
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {
        "id": "0b8ad2a2",
        "task": "t",
        "eta": "2031-01-01T00:00:00+05:30",
        "expires": "2031-01-02T00:00:00",
        "tenant_id": "00000000-0000-0000-0000-000000000001",
        "compression": "application/x-gzip",
    },
    "properties": {
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "delivery_mode": 2,
        "delivery_tag": "x",
        "expiration": "1000",
        "priority": 3,
    },
}
_WORDS = (
    *_OF_CELERY, *_OF_CELERY["headers"], *_OF_CELERY["properties"], "exchange", "routing_key",
)  # fmt: skip
SEEDS = [
    json.dumps(_OF_CELERY).encode(),
    b'{"properties": {}}',
    b'{"properties": {}, "headers": {"task": []}}',
    b'{"properties": {"expiration": Infinity}, "headers": {"eta": "0001-01-01T00:00:00+23:59", "id": "\\ud800"}}',
    b"[" * 3000,
]


class _Database:
    """Replaces the session: checks that psycopg2 can adapt the parameters, and records reasons of dead letters."""

    def __init__(self) -> None:
        self.buried: list[str] = []

    def run(self, name: str, **parameters: Any) -> list[Any]:
        for value in parameters.values():
            written(value)
        if name.startswith("bury"):
            reasons = parameters.get("reasons") or [parameters.get("reason")]
            self.buried += reasons
        return []


def written(value: Any) -> None:
    """Adapt a parameter as psycopg2 does, without a connection."""
    quoted = adapt(value)
    if hasattr(quoted, "encoding"):
        quoted.encoding = "utf-8"
    for one in value if isinstance(value, list) else ():
        written(one)
    if isinstance(value, str):
        value.encode()
    else:
        quoted.getquoted()


def check(data: bytes) -> None:
    """Take the bytes as a stored payload, as the recipe of one, and as a change of one value in Celery's message."""
    payload = data.decode("utf-8", "replace").replace("\0", "")  # a text column cannot store NUL
    for one in (payload, json.dumps(value_of(data, _WORDS)), json.dumps(_changed(data))):
        check_read(one)
        check_delivered(one)


def _changed(data: bytes) -> Any:
    """Return Celery's message with one value replaced."""
    message = json.loads(json.dumps(_OF_CELERY))
    if len(data) > 1:
        parts = (message, message["headers"], message["properties"])
        part = parts[data[0] % len(parts)]
        part[sorted(part)[data[1] % len(part)]] = value_of(data[2:], _WORDS)
    return message


def check_read(payload: str) -> None:
    """A payload is refused with an error that quotes nothing, or survives decoding and PostgreSQL takes its columns."""
    try:
        message = decode(payload)
    except FlawedMessageError as error:
        assert str(error).startswith("the payload is not"), error
        return
    again = encode(message)
    assert encode(decode(again)) == again
    envelope = Envelope.of(message, 0)
    if envelope.task_id is not None:
        assert envelope.task_id.encode()
        assert "\0" not in envelope.task_id
    assert envelope.tenant_id is None or str(UUID(envelope.tenant_id)) == envelope.tenant_id
    assert envelope.eta is None or not envelope.eta.utcoffset()
    assert envelope.ttl_ms is None or 0 <= envelope.ttl_ms <= MAX_TTL_MS


def check_delivered(payload: str) -> None:
    """A payload is delivered once, or becomes a dead letter with a reason."""
    database = _Database()
    channel: Any = SimpleNamespace(
        Message=Channel.Message,
        decode_body=lambda body, encoding=None: Channel.decode_body(channel, body, encoding),
        codecs=Channel.codecs,
        body_encoding=None,
        connection=SimpleNamespace(client=SimpleNamespace(accept=None)),
        max_decompressed=1 << 20,
        make_message=lambda content: Channel.Message(content, channel=channel),
    )
    claimed = ClaimedMessage(7, _QUEUE, 1, 0, 0, None, False, False, None, payload)
    known = {_QUEUE: Subscription("q", channel, auto_ack=False, queue_id=_QUEUE)}
    store = MessageStore(database)
    claims = Claims(database, max_failures=5, wake=lambda: None, ended=lambda: None)  # type: ignore[arg-type]
    messages = [message_of(one, claims, store) for one in screen(store, [claimed], known)]
    handed = [one for one in messages if one is not None]
    assert len(handed) + len(database.buried) == 1, (len(handed), database.buried)
    assert all(reason and len(reason) < 200 for reason in database.buried)
