"""One, two and four workers on one queue: speed, duplicates, deadlocks."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, comparison, values
from benchmarks.journal import rate
from benchmarks.peers import PostgresBroker
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "several"
REPETITIONS = 3
QUICK_REPETITIONS = 1

_COUNTS = (1, 2, 4)


def variants(bench: Bench) -> list[str]:
    """Peer, ack mode, workers."""
    found = [f"ours {mode} {count}" for mode in ("late", "early") for count in _COUNTS] if "ours" in bench.peers else []
    return found + [f"{name} late {count}" for name in bench.present("redis", "stock") for count in _COUNTS]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """All workers wait before the messages come, so that none is late."""
    name, mode, count = variant.split()
    messages = int(bench.pick(1_500, 4_000) if name == "stock" else bench.pick(12_000, 40_000))
    limit_s = bench.pick(15, 60)
    with ExitStack() as stack:
        broker = stack.enter_context(bench.peers[name].fresh())
        workers = [
            stack.enter_context(Worker(broker, late=mode == "late", capacity=messages * 2, ready=False))
            for _ in range(int(count))
        ]
        end = time.monotonic() + 60
        while not all(worker.is_ready() for worker in workers) and time.monotonic() < end:
            time.sleep(0.05)
        broker.fill(1, messages)
        end = time.monotonic() + limit_s
        while sum(worker.journal.refresh() for worker in workers) < messages and time.monotonic() < end:
            time.sleep(0.05)
        # A duplicate may come after the last message.
        time.sleep(0.5)
        for worker in workers:
            worker.journal.refresh()
        records = [record for worker in workers for record in worker.journal.records]
        numbers = [number for number, _, _ in records]
        return {
            "rate": rate(records) if records else 0.0,
            "tasks": len(numbers),
            "share": [len(worker.journal.records) for worker in workers],
            "duplicates": len(numbers) - len(set(numbers)),
            "missing": messages - len(set(numbers)),
            "deadlocks": _deadlocks(broker) if isinstance(broker, PostgresBroker) else 0,
            "said": [worker.log_text()[-500:] for worker in workers],
        }


def _deadlocks(broker: PostgresBroker) -> int:
    with closing(broker.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


def rows(results: Results) -> list[Row]:
    """Against one worker; what went wrong."""
    found = []
    for who in ("ours late", "ours early", "redis late", "stock late"):
        if f"{who} 1" not in results:
            continue
        mine = who.startswith("ours")
        found += [
            comparison(
                f"tasks/s of {count} workers on one queue against one, {who}",
                "1 x" if mine and count == 4 else "",
                results,
                f"{who} {count}",
                f"{who} 1",
            )
            for count in _COUNTS[1:]
        ]
        wrong = {
            key: sum(sum(values(results, f"{who} {count}", key)) for count in _COUNTS)
            for key in ("duplicates", "deadlocks", "missing")
        }
        shown = ", ".join(f"{key} {value:.0f}" for key, value in wrong.items())
        found.append(Row(f"1, 2 and 4 workers, {who}", "0" if mine else "", shown))
    return found
