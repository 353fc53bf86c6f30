"""A bare loop on the broker's own table: the program of the ceilings.

``BENCH_BATCH``: how many tasks a worker takes with one statement.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks.programs import publishing
from benchmarks.programs.celery_program import create_schema
from benchmarks.systems.databases import CLAIM, COLUMNS, ENVELOPE
from environment.testkit.journal import Journal

#: Seconds between two claims on an empty table.
_PAUSE_S = 0.005

_INSERT = f"""
    PREPARE publish AS
    INSERT INTO kombu_message ({COLUMNS})
    SELECT nextval('message_id_sequence'), true, 1, 1, task_id, payload
    FROM unnest($1::text[], $2::text[]) AS new (task_id, payload)"""


def _work(cursor: Any) -> None:
    journal = Journal(Path(os.environ["BENCH_JOURNAL"]), int(os.environ["BENCH_CAPACITY"]))
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    claim = CLAIM.format(count=int(os.environ["BENCH_BATCH"]))
    cursor.execute(f"PREPARE claim AS {claim} RETURNING payload")
    Path(os.environ["BENCH_READY"]).touch()
    while going:
        cursor.execute("EXECUTE claim")
        claimed = cursor.fetchall()
        for (payload,) in claimed:
            task = json.loads(payload)
            start = time.monotonic_ns()
            if task["seconds"]:
                time.sleep(task["seconds"])
            journal.write(task["number"], start, time.monotonic_ns())
        if not claimed:
            time.sleep(_PAUSE_S)


def main(words: Sequence[str]) -> None:
    """``install``, ``worker`` or ``publish MODE …``."""
    if words[0] == "install":
        print(json.dumps(create_schema(os.environ["BENCH_BROKER"])))
    connection = psycopg2.connect(os.environ["BENCH_BROKER"], application_name="ceiling")
    connection.autocommit = True
    with connection.cursor() as cursor:
        if words[0] == "install":
            cursor.execute("INSERT INTO kombu_queue (id, name) VALUES (1, 'celery')")
        elif words[0] == "worker":
            _work(cursor)
        else:
            cursor.execute(_INSERT)

            def many(numbers: Sequence[int], seconds: float, padding: str) -> None:
                rest = {"seconds": seconds, "padding": padding, "envelope": "e" * ENVELOPE}
                payloads = [json.dumps({"number": number, **rest}) for number in numbers]
                cursor.execute("EXECUTE publish (%s, %s)", [[str(uuid.uuid4()) for _ in numbers], payloads])

            def one(number: int, seconds: float, padding: str) -> None:
                many([number], seconds, padding)

            print(json.dumps(publishing.answer(words[1:], one, many)))


if __name__ == "__main__":
    main(sys.argv[1:])
