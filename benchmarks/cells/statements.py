"""Statements of an idle worker, and notifications while a producer publishes to a busy one."""

from __future__ import annotations

import re
import select
import time
from contextlib import closing
from typing import Any

from benchmarks.cells import Cell, spread
from benchmarks.run import Feeder, Run, worker_of
from benchmarks.systems import System
from benchmarks.systems.clusters import administrate, connect
from environment.testkit.children import answer, spawn

_STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")
_LISTEN = re.compile(r'^LISTEN\s+"?((?:[^"]|"")*?)"?\s*;?\s*$', re.IGNORECASE)


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Statements a second of an idle worker, from the server's log; notifications a second of a busy one."""
    cluster, seconds = system.cluster, run.pick(10, 60)
    assert cluster is not None
    with system.fresh() as broker:
        name = broker.name  # type: ignore[attr-defined]

        def logged(position: int) -> list[str]:
            """Return the statements in this database that the server has logged since a position."""
            with cluster.log.open(errors="replace") as log:
                log.seek(position)
                lines = [line for line in log if line.startswith(f"{name}|")]
            return [found[1] for line in lines if (found := _STATEMENT.search(line))]

        begin = cluster.log.stat().st_size
        administrate(cluster, f"ALTER DATABASE {name} SET log_statement = 'all'")
        with worker_of(broker, 1, 100, ready=True, late=True) as worker:
            # It polls after 2 to 250 ms before it sleeps.
            time.sleep(3)
            idle, meter = cluster.log.stat().st_size, run.meter(system, worker)
            time.sleep(seconds)
            spent, statements = meter.stop(), logged(idle)
        channels = sorted({found[1] for one in logged(begin) if (found := _LISTEN.match(one))})
        administrate(cluster, f"ALTER DATABASE {name} RESET log_statement")
        return {
            "statements": len(statements) / seconds,
            "worker_ms": spent["worker"] / seconds * 1000,
            **_busy(run, broker, channels),
        }


def _busy(run: Run, broker: Any, channels: list[str]) -> dict[str, Any]:
    """Publish to a queue that is never empty, and listen on the channels of its worker."""
    seconds = run.pick(4, 10)
    feeder = Feeder(broker, 3_000)
    feeder.fill()
    with (
        closing(connect(broker.url)) as listener,
        worker_of(broker, 1, 1_000_000, late=True) as worker,
    ):
        with listener.cursor() as cursor:
            for channel in channels:
                cursor.execute(f'LISTEN "{channel}"')
        worker.run_until(100, 60)
        # The tasks that it publishes have numbers that the feeder does not give.
        command = broker.publisher("one_by_one", 10_000_000, 10_000_000, seconds, 0)
        publisher = spawn(command, broker.variables, stdout=-1, stderr=-1)
        while publisher.poll() is None:
            feeder.feed(worker, 0.2)
        done = answer(publisher)
        if select.select([listener], [], [], 0)[0]:
            listener.poll()
        return {"notifications": len(listener.notifies) / seconds, "publishes_while_busy": done["published"]}


CELL = Cell(
    "statements",
    lambda run: run.present("ours", "stock"),
    measure,
    repetitions=3,
    tables={
        "statements": [
            ("statements/s of an idle worker", spread("", "statements")),
            ("NOTIFY/s while a producer publishes to a busy worker", spread("", "notifications")),
        ]
    },
)
