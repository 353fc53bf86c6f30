"""What an idle worker asks of PostgreSQL, and whether a busy system sends notifications."""

from __future__ import annotations

import re
import select
import threading
import time
from collections import Counter
from contextlib import closing
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, middle, number, spread, values
from benchmarks.peers import PostgresBroker
from benchmarks.processes import answer, start
from benchmarks.samples import Results
from benchmarks.steady import Feeder
from benchmarks.worker import Worker

NAME = "idle"
REPETITIONS = 3
QUICK_REPETITIONS = 1

_STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")
_LISTEN = re.compile(r'^LISTEN\s+"?((?:[^"]|"")*?)"?\s*;?\s*$', re.IGNORECASE)


def variants(bench: Bench) -> list[str]:
    """Those in PostgreSQL."""
    return list(bench.postgres_peers)


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Statements in a second of an idle worker, by their beginnings; notifications a second of a busy one."""
    peer = bench.postgres_peers[variant]
    seconds = bench.pick(10, 60)
    with peer.fresh() as broker:
        peer.administrate(f"ALTER DATABASE {broker.name} SET log_statement = 'all'")
        with Worker(broker, late=True) as worker:
            # It looks again after 2 to 250 ms before it sleeps.
            time.sleep(3)
            before = _Log(bench, broker)
            meter = bench.meter(peer, worker.pid)
            time.sleep(seconds)
            spent = meter.stop()
            idle = before.statements()
            channels = _channels(bench, broker)
        peer.administrate(f"ALTER DATABASE {broker.name} RESET log_statement")
        busy = _busy(bench, broker, channels)
    kinds = Counter(" ".join(statement.split())[:60] for statement in idle)
    return {
        "statements": len(idle) / seconds,
        "worker_ms": spent["worker"] / seconds * 1000,
        "kinds": kinds.most_common(12),
        "channels": channels,
        **busy,
    }


class _Log:
    """What PostgreSQL logs for one database from now on."""

    def __init__(self, bench: Bench, broker: PostgresBroker, *, whole: bool = False) -> None:
        self._path = bench.cluster.log
        self._prefix = f"{broker.name}|"
        self._position = 0 if whole else self._path.stat().st_size

    def statements(self) -> list[str]:
        with self._path.open(errors="replace") as log:
            log.seek(self._position)
            found = []
            for line in log:
                match = _STATEMENT.search(line) if line.startswith(self._prefix) else None
                if match:
                    found.append(match[1])
        return found


def _channels(bench: Bench, broker: PostgresBroker) -> list[str]:
    matches = (_LISTEN.match(statement) for statement in _Log(bench, broker, whole=True).statements())
    return sorted({match[1] for match in matches if match})


def _busy(bench: Bench, broker: PostgresBroker, channels: list[str]) -> dict[str, Any]:
    """Publish to a queue that is never empty, and listen where its worker would."""
    seconds = bench.pick(4, 10)
    feeder = Feeder(broker.fill, 3_000, broker.refill)
    feeder.fill()
    with closing(broker.connect()) as listener, Worker(broker, late=True, ready=False) as worker:
        worker.run_until(100, 60)
        with listener.cursor() as cursor:
            for channel in channels:
                cursor.execute('LISTEN "' + channel.replace('"', '""') + '"')
        arguments = ["-m", "benchmarks.producer", "one_by_one", str(10_000_000), str(10_000_000), str(seconds)]
        process = start(arguments, broker.variables, stdout=-1, stderr=-1)
        done: list[Any] = []
        waiting = threading.Thread(target=lambda: done.append(answer(process, 60)))
        waiting.start()
        while waiting.is_alive():
            feeder.feed(worker, 0.2)
        waiting.join()
        if select.select([listener], [], [], 0)[0]:
            listener.poll()
        payloads = Counter((notify.channel, notify.payload[:40]) for notify in listener.notifies)
    published = done[0]["published"] if done else 0
    return {
        "notifications": len(listener.notifies) / seconds,
        "published_while_busy": published,
        "publish_rate_while_busy": done[0]["rate"] if done else None,
        "payloads": [[*key, count] for key, count in payloads.most_common(5)],
    }


def rows(results: Results) -> list[Row]:
    """Statements and notifications."""
    found = []
    for who, wanted in (("ours", "2"), ("stock", "")):
        if who in results:
            found.append(
                Row(
                    f"statements/s of an idle worker, {who}",
                    wanted,
                    number(middle(results, who, "statements"), "", 2),
                    "",
                    spread(values(results, who, "statements")),
                )
            )
    if "ours" in results:
        found.append(
            Row(
                "NOTIFY/s while a producer publishes to a busy worker",
                "0",
                number(middle(results, "ours", "notifications"), "", 2),
                "",
                spread(values(results, "ours", "notifications")),
            )
        )
    return found
