"""Copies of one real message, each with a task id, delivery tag and number of its own.

Publishing a million messages through Celery takes ten minutes; copying takes ten seconds, and the worker sees no
difference: Celery published the sample through the transport that is measured.
"""

from __future__ import annotations

import importlib
import json
import re
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

#: The argument of the sample; its body and ``argsrepr`` contain it.
SAMPLE_NUMBER = 987654321

#: Bytes of one write to RabbitMQ's socket.
_CHUNK = 1 << 18
#: The frame size that RabbitMQ and the client agree on, less a frame's head and end.
_FRAME_MAX = 131_072


class Clones:
    """Makes copies of a message in JSON.

    Args:
        raw: the message as the transport stores it, with Kombu's envelope.
    """

    def __init__(self, raw: str) -> None:
        message: dict[str, Any] = json.loads(raw)
        body, encoding = message["body"], message["properties"].get("body_encoding")
        self._plain_body = b64decode(body) if encoding == "base64" else None
        self._task_id = message["headers"]["id"]
        self._tag = message["properties"].get("delivery_tag")
        self._body = body if encoding == "base64" else None
        variable = [self._task_id, self._tag, self._body, str(SAMPLE_NUMBER)]
        self._parts = re.split("(" + "|".join(re.escape(word) for word in variable if word) + ")", raw)
        self._places = [
            (position, part) for position, part in enumerate(self._parts) if part in variable and part is not None
        ]

    def make(self, number: int) -> tuple[str, str]:
        """Return a task id and the message of a task with this number."""
        task_id = str(uuid.UUID(int=next_id()))
        new = {self._task_id: task_id, str(SAMPLE_NUMBER): str(number)}
        if self._tag is not None:
            new[self._tag] = str(uuid.UUID(int=next_id()))
        if self._body is not None and self._plain_body is not None:
            plain = self._plain_body.replace(b"%d" % SAMPLE_NUMBER, b"%d" % number)
            new[self._body] = b64encode(plain).decode()
        parts = self._parts.copy()
        for position, part in self._places:
            parts[position] = new[part]
        return task_id, "".join(parts)


_last_id = uuid.uuid4().int


def next_id() -> int:
    """Return a number for a UUID that was not used before."""
    # uuid4 for each would take half of the time, and they only have to be distinct.
    global _last_id
    _last_id = (_last_id + 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128)
    return _last_id


class Frames:
    """Makes copies of an AMQP message as the bytes that publish it, ten times as fast as a client that packs each.

    Frames declare their length, so every copy has the length of the sample: its number is padded with spaces, which
    neither JSON nor ``argsrepr`` minds.

    Args:
        message: as ``basic_get`` of py-amqp returned it.

    Attributes:
        reply_to: the queue of its result, if it names one.
    """

    def __init__(self, message: Any) -> None:
        self.reply_to: str | None = message.properties.get("reply_to")
        self._message = message
        self._task_id = message.headers["id"].encode()

    def publish(self, write: Callable[[bytes], object], channel: int, queue: str, first: int, count: int) -> None:
        """Write the frames of ``count`` publishes, numbered from ``first``, to the queue of that name.

        Args:
            write: sends bytes.
            channel: the channel's number.
            queue: the queue's name.
            first: the first number.
            count: how many.
        """
        parts = re.split(b"(%s|%d)" % (re.escape(self._task_id), SAMPLE_NUMBER), self._frames(channel, queue))
        identities = [position for position, part in enumerate(parts) if part == self._task_id]
        numbers = [position for position, part in enumerate(parts) if part == b"%d" % SAMPLE_NUMBER]
        width = len(str(SAMPLE_NUMBER))
        pending: list[bytes] = []
        size = 0
        for number in range(first, first + count):
            task_id, text = str(uuid.UUID(int=next_id())).encode(), b"%*d" % (width, number)
            for position in identities:
                parts[position] = task_id
            for position in numbers:
                parts[position] = text
            pending.append(b"".join(parts))
            size += len(pending[-1])
            if size >= _CHUNK:
                write(b"".join(pending))
                pending, size = [], 0
        if pending:
            write(b"".join(pending))

    def _frames(self, channel: int, queue: str) -> bytes:
        """Return the frames of the sample itself, as the client writes them."""
        written: list[bytes] = []
        connection = SimpleNamespace(frame_max=_FRAME_MAX, bytes_sent=0)
        transport = SimpleNamespace(write=lambda data: written.append(bytes(data)))
        write = importlib.import_module("amqp.method_framing").frame_writer(connection, transport)
        publish = importlib.import_module("amqp.spec").Basic.Publish
        # Ticket, exchange, routing key, mandatory, immediate.
        arguments = importlib.import_module("amqp.serialization").dumps("Bssbb", [0, "", queue, False, False])
        write(1, channel, publish, arguments, self._message)
        return b"".join(written)
