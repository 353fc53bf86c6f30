"""A consumer of a fair queue that claims and acknowledges without end: ``turn_worker URL NUMBER QUEUE_ID FOLDER``.

It claims by the turns and limits that a worker claims by, and writes the time of each claim into a file of its own.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

import psycopg2

from celery_postgres.errors import SchemaError
from environment.testkit.turns import MAX_FAILURES, TurnsConsumer


def main(url: str, number: int, queue: int, folder: Path) -> None:
    """Claim until the process is killed, over restarts of the server."""
    chance, pause = random.Random(number), threading.Event()  # noqa: S311
    with (folder / f"{number}-{time.time_ns()}").open("a", buffering=1) as starts:
        while True:
            try:
                _consume(TurnsConsumer(url, number, queue, places=48), chance, pause, starts)
            except (psycopg2.Error, SchemaError, AssertionError):  # the claim has failed
                pause.wait(0.05)


def _consume(consumer: TurnsConsumer, chance: random.Random, pause: threading.Event, starts: object) -> None:
    held: list[object] = []
    consumer.messages.release_all(consumer.number, MAX_FAILURES, failed=False)  # of the connection before this one
    while not consumer.session.closed:
        claimed = consumer.claim()
        for one in claimed:
            print(f"{one.flow_key} {time.time():.6f}", file=starts)  # type: ignore[call-overload]
        held += claimed
        chance.shuffle(held)
        acked, held = held[: len(held) // 2 + 1], held[len(held) // 2 + 1 :]
        for one in acked:
            consumer.ack(one)  # type: ignore[arg-type]
        if not claimed:
            pause.wait(0.005)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
