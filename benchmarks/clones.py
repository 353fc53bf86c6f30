"""Copies of one real message, as many as are wanted, each with its own task id, delivery tag and number.

Publishing a million messages through Celery takes ten minutes; this takes ten seconds, and the worker sees no
difference: the sample was published by Celery through the very transport that is measured.
"""

from __future__ import annotations

import json
import re
import uuid
from base64 import b64decode, b64encode
from typing import Any

#: The argument of the sample, which is found again in its body and in ``argsrepr``.
SAMPLE_NUMBER = 987654321


class Clones:
    """A maker of copies.

    :param raw: the message as the transport stores it, JSON with Kombu's envelope.
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
        """A task id and a message whose task gets this number."""
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
    """A number for a UUID that was not used before."""
    # uuid4 for each would be half of the time; distinct is all that they have to be.
    global _last_id
    _last_id = (_last_id + 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128)
    return _last_id
