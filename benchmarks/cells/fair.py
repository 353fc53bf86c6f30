"""Fair queues: what turns cost, and what a quiet key waits.

``unfair``, ``fair``, ``limited``: consumers (1 or 2) claim 64 messages at a time of 10,000 keys and acknowledge them,
without Celery; ``limited``: at most 5 of each key may run; ``pinned``: for a minute beside a transaction that keeps
dead rows, which the rate at its end shows.
``skewed``: one key has all messages but 9,999, which are of one key each. ``quiet``: four workers run tasks of 10 ms of
one key, and a task of another comes now and then. ``shares``: what each of 20 keys with a Zipf-distributed load gets
while all of them wait, and Jain's index of it: 1 if all get the same.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.cells import Cell, number
from benchmarks.figures import summary
from benchmarks.programs.publishing import SETTLING
from benchmarks.run import Run, worker_of
from benchmarks.systems import System
from benchmarks.systems.clusters import connect, pin
from environment.testkit.turns import TurnsConsumer

_KEYS = 10_000
_BATCH = 64
_WORKERS = 4
#: Keys of ``shares``; the k-th has the k-th part of the load of the first.
ZIPF = 20
#: Milliseconds of a task in ``quiet``.
_TASK_S = 0.01


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Figures by name."""
    what, _, rest = how.partition(" ")
    waiting = int(run.pick(100_000, 1_000_000))
    with system.fresh() as broker:
        # One message, which the server copies.
        broker.fill(10_000_000, 1, _TASK_S if what == "quiet" else 0.0)
        with closing(connect(broker.url)) as connection, connection.cursor() as cursor:  # type: ignore[attr-defined]
            queue = _prepare(cursor, what, waiting)
        if what == "quiet":
            return _quiet(run, system, broker)
        with closing(connect(broker.url)) as holder:  # type: ignore[attr-defined]
            if "pinned" in rest:
                pin(holder)
            consumers = 2 if rest.startswith("2") else 1
            seconds = run.pick(8, 60) if "pinned" in rest else run.pick(4, 20)
            return _claims(run, system, broker, queue, what, consumers, seconds)


def _key(what: str, waiting: int) -> str:
    """The number of the key of message ``i``, in SQL."""
    if what == "skewed":
        return f"CASE WHEN i <= {waiting - _KEYS + 1} THEN 0 ELSE i END"
    if what == "shares":
        # The i-th message is of key k if i is in the k-th part.
        total = sum(1 / key for key in range(1, ZIPF + 1))
        bounds = [sum(1 / key for key in range(1, upto + 1)) / total for upto in range(1, ZIPF)]
        return f"width_bucket(i::float / {waiting}, ARRAY{bounds})"
    return "0" if what == "quiet" else f"i % {_KEYS}"


def _prepare(cursor: Any, what: str, waiting: int) -> int:
    fair = what != "unfair"
    cursor.execute("SELECT message.queue_id FROM kombu_message AS message")
    (queue,) = cursor.fetchone()
    cursor.execute("UPDATE kombu_queue SET fair = %s WHERE id = %s", [fair, queue])
    cursor.execute("SET synchronous_commit = off")
    columns = f"now(), hashint8extended({_key(what, waiting)}, 0)" if fair else "NULL, NULL"
    cursor.execute(
        "INSERT INTO kombu_message (queue_id, payload, priority, task_id, available_at, flow_key)"
        f" SELECT queue_id, payload, priority, gen_random_uuid()::text, {columns}"
        f" FROM (SELECT * FROM kombu_message LIMIT 1) AS one, generate_series(1, {waiting}) AS i"
    )
    cursor.execute("DELETE FROM kombu_message WHERE id = (SELECT min(id) FROM kombu_message)")
    if what == "limited":
        cursor.execute("INSERT INTO kombu_limit (queue_id, key, max_running) VALUES (%s, '*', 5)", [queue])
    cursor.execute("VACUUM (ANALYZE) kombu_message")
    return int(queue)


def _claims(
    run: Run, system: System, broker: Any, queue: int, what: str, consumers: int, seconds: float
) -> dict[str, Any]:
    """Claim for so long; `late_rate`: in the last quarter of it."""
    got: Counter[int | None] = Counter()
    left = _KEYS - 1
    end = time.monotonic() + seconds
    late = Counter[str]()

    def enough() -> bool:
        return len(got) > left if what == "skewed" else time.monotonic() > end

    def work(number: int) -> None:
        consumer = TurnsConsumer(broker.url, number, queue, places=_BATCH)
        with closing(consumer.session):
            while not enough():
                messages = consumer.claim(fair=what != "unfair")
                got.update(one.flow_key for one in messages)
                if end - time.monotonic() < seconds / 4:
                    late["count"] += len(messages)
                for one in messages:
                    consumer.ack(one)
                if not messages:
                    time.sleep(0.001)

    meter, begun = run.meter(system), time.monotonic()
    threads = [threading.Thread(target=work, args=[1 + one]) for one in range(consumers)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    took, spent = time.monotonic() - begun, meter.stop()
    count = sum(got.values())
    found: dict[str, Any] = {
        "rate": count / took,
        "late_rate": late["count"] / (seconds / 4),
        "server_us": spent["server"] / count * 1e6,
        "client_us": spent["harness"] / count * 1e6,
        "took_s": took,
        "count": count,
    }
    if what == "shares":
        shares = [got[key] for key in sorted(got, key=lambda key: -got[key])]
        found |= {"jain": sum(shares) ** 2 / (len(shares) * sum(one * one for one in shares)), "shares": shares}
    return found


def _quiet(run: Run, system: System, broker: Any) -> dict[str, Any]:
    seconds, rate = run.pick(8, 30), 20.0
    count = int(rate * seconds)
    with ExitStack() as stack:
        workers = [stack.enter_context(worker_of(broker, 1, 100_000, ready=True)) for _ in range(_WORKERS)]
        called = broker.publish("steady", 1, rate, seconds)
        wanted = set(range(1, SETTLING + count))
        started: dict[int, int] = {}
        until = time.monotonic() + 15
        while time.monotonic() < until and len(wanted & started.keys()) < count:
            time.sleep(0.1)
            for worker in workers:
                worker.journal.refresh()
                started |= {number: start for number, start, _ in worker.journal.records}
        for worker in workers:
            worker.process.terminate()
    waits = [(started[number] - begin) / 1e6 for number, begin, _ in called if number in started]
    return {**summary(waits), "missing": len(called) - len(waits)}


def variants(run: Run) -> list[str]:
    """Ours alone: no other system has keys."""
    hows = [f"{what} {consumers}" for consumers in (1, 2) for what in ("unfair", "fair", "limited")]
    hows += ["unfair 1 pinned", "fair 1 pinned", "limited 1 pinned", "skewed 1", "shares 1", "quiet"]
    return [f"{name} {how}" for how in hows for name in run.present("ours")]


CELL = Cell(
    "fair",
    variants,
    measure,
    deadline_s=400,
    printed={
        "fair queues: claims/s, server µs of a message": [
            ("unfair, 1", number("unfair 1", "rate", "server_us")),
            ("fair, 1", number("fair 1", "rate", "server_us")),
            ("limited, 1", number("limited 1", "rate", "server_us")),
            ("unfair, 2", number("unfair 2", "rate", "server_us")),
            ("fair, 2", number("fair 2", "rate", "server_us")),
            ("limited, 2", number("limited 2", "rate", "server_us")),
            *(
                (f"{what}, pinned, rate at the end", number(f"{what} 1 pinned", "late_rate", "server_us"))
                for what in ("unfair", "fair", "limited")
            ),
        ],
        "one key with nearly all, 9,999 with one": [
            ("seconds", number("skewed 1", "took_s")),
            ("messages claimed until then", number("skewed 1", "count")),
        ],
        "20 keys with Zipf-distributed load": [("Jain's index", number("shares 1", "jain"))],
        "a quiet key's task, four workers, tasks of 10 ms": [("p50 / p99 ms", number("quiet", "p50", "p99"))],
    },
)
