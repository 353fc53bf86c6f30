"""Rows of kombu_message as stock Kombu's ORM inserts them, in transactions that Kombu cannot keep open."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

_INSERT = """
    INSERT INTO kombu_message (id, visible, timestamp, payload, version, queue_id)
    VALUES (nextval('message_id_sequence'), true, NULL, %s, 1, (SELECT id FROM kombu_queue WHERE name = %s))
"""


def payload(body: Any, queue: str, **headers: Any) -> str:
    """Return the payload that stock Kombu stores for a JSON body."""
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


@contextmanager
def inserting(url: str, queue: str, bodies: Sequence[Any]) -> Iterator[None]:
    """Insert messages and commit at the end of the block."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        for body in bodies:
            cursor.execute(_INSERT, [payload(body, queue), queue])
        yield


def insert(url: str, queue: str, bodies: Sequence[Any]) -> None:
    """Insert messages and commit."""
    with inserting(url, queue, bodies):
        pass


def insert_raw(url: str, queue: str, text: str) -> None:
    """Insert one row with any payload."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(_INSERT, [text, queue])
