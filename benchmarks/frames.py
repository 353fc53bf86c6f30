"""Copies of one real AMQP message, as the bytes that publish it: ten times as fast as a client that packs each.

See ``benchmarks.clones``.  Frames say how long they are, so every copy has the length of the sample: its number is
padded with spaces, which neither JSON nor ``argsrepr`` minds.
"""

from __future__ import annotations

import importlib
import re
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from benchmarks.clones import SAMPLE_NUMBER, next_id

#: Bytes that are handed to the socket together.
_CHUNK = 1 << 18
#: What RabbitMQ and the client agree on, less a frame's head and end.
_FRAME_MAX = 131_072


class Sample:
    """A maker of copies.

    :param message: as ``basic_get`` of py-amqp returned it.
    :ivar reply_to: the queue that its result goes to, if it names one.
    """

    def __init__(self, message: Any) -> None:
        self.reply_to: str | None = message.properties.get("reply_to")
        self._message = message
        self._task_id = message.headers["id"].encode()

    def publish(self, write: Callable[[bytes], object], channel: int, queue: str, first: int, count: int) -> None:
        """Write the frames of so many publishes, numbered from ``first``, to the queue of that name.

        :param channel: the channel's number.
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
        """Those of the sample itself, by the client's own hand."""
        written: list[bytes] = []
        connection = SimpleNamespace(frame_max=_FRAME_MAX, bytes_sent=0)
        transport = SimpleNamespace(write=lambda data: written.append(bytes(data)))
        write = importlib.import_module("amqp.method_framing").frame_writer(connection, transport)
        publish = importlib.import_module("amqp.spec").Basic.Publish
        # Ticket, exchange, routing key, mandatory, immediate.
        arguments = importlib.import_module("amqp.serialization").dumps("Bssbb", [0, "", queue, False, False])
        write(1, channel, publish, arguments, self._message)
        return b"".join(written)
