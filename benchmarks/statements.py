"""What the server does for a task: ``python -m benchmarks.statements [SCENARIO …] [--seconds N] [--plans]``.

For each scenario a table of our named statements: how often each is called for a task, its time, its rows, the shared
buffers that it finds and dirties, its WAL; and below it what the whole costs: transactions, WAL, CPU.  ``--plans``
shows instead how the last call of each was executed; the figures would not hold beside that.

Needs the contrib modules pg_stat_statements and auto_explain, which Debian's PostgreSQL has and the wheel has not.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import psycopg2

from benchmarks import servers
from benchmarks.machine import Meter
from benchmarks.peers import PostgresBroker, PostgresPeer
from benchmarks.processes import call
from benchmarks.worker import Worker
from environment.errors import UserError

#: The one major whose contrib modules are certain to be there.
MAJOR = 15
_COUNTING = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track_utility": "on"}
_EXPLAINING = {
    "shared_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_nested_statements": "on",
}
_STATEMENTS = """
SELECT query, calls, total_exec_time * 1000, rows, shared_blks_hit, shared_blks_dirtied, wal_bytes
FROM pg_stat_statements
JOIN pg_database ON pg_database.oid = dbid
WHERE datname = %s
ORDER BY total_exec_time DESC
"""
_WARM_UP = 500


class Account:
    """What a server does for one database between ``begin`` and ``end``."""

    def __init__(self, peer: PostgresPeer, broker: PostgresBroker, counts: bool) -> None:
        self._peer = peer
        self._name = broker.name
        self._counts = counts
        self._connection = psycopg2.connect(peer.cluster.superuser_url)
        self._connection.autocommit = True
        self.lines: list[str] = []

    def begin(self, worker: int | None = None) -> None:
        """From here on.

        :param worker: the process whose CPU counts beside the server's.
        """
        if self._counts:
            self._ask("SELECT pg_stat_statements_reset()")
        self._meter = Meter({"worker": [worker] if worker else [], "server": self._peer.pids()})
        self._before = self._totals()

    def end(self, units: float) -> None:
        """Until here, where so many tasks (or seconds, where nothing is to be done) were worked on."""
        spent = self._meter.stop()
        commits, wal = (after - before for after, before in zip(self._totals(), self._before, strict=True))
        if self._counts:
            self.lines.append(f"{'calls':>9}{'us':>9}{'rows':>9}{'hit':>9}{'dirtied':>9}{'WAL':>9}  statement")
            for query, *figures in self._ask(_STATEMENTS, [self._name]):
                if figures[0] / units >= 0.0005:
                    shown = "".join(f"{float(figure) / units:9.3f}" for figure in figures)
                    self.lines.append(f"{shown}  {_name(query)}")
        cpu = ", ".join(f"{spent[who] / units * 1e6:.0f} us of the {who}" for who in ("server", "worker"))
        self.lines.append(
            f"of {units:,.0f}, each: {commits / units:.3f} transactions, {wal / units:.0f} bytes of WAL, {cpu}"
        )

    def close(self) -> None:
        self._connection.close()

    def _totals(self) -> tuple[float, float]:
        ((commits, wal),) = self._ask(
            "SELECT xact_commit + xact_rollback, pg_current_wal_insert_lsn() - '0/0' "
            "FROM pg_stat_database WHERE datname = %s",
            [self._name],
        )
        return float(commits), float(wal)

    def _ask(self, statement: str, values: list[str] | None = None) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()


def _name(query: str) -> str:
    prepared = re.match(r"PREPARE (\w+)", query)
    return prepared[1] if prepared else " ".join(query.split())[:60]


def _drain(pool: str, concurrency: int, *, late: bool, results: bool) -> Callable[..., None]:
    def scenario(broker: PostgresBroker, account: Account, seconds: float) -> None:
        count = int(6_000 * seconds)
        broker.fill(1, count)
        if not results:
            broker.variables = {name: value for name, value in broker.variables.items() if name != "BENCH_BACKEND"}
        with Worker(broker, late=late, capacity=count, ready=False, pool=pool, concurrency=concurrency) as worker:
            worker.run_until(_WARM_UP, 60)
            account.begin(worker.pid)
            before = worker.journal.refresh()
            begin = time.monotonic()
            done = max(1, worker.run_until(count, seconds) - before)
            account.lines.append(f"{done / (time.monotonic() - begin):,.0f} a second")
            account.end(done)

    return scenario


def _publish(*mode: object) -> Callable[..., None]:
    def scenario(broker: PostgresBroker, account: Account, seconds: float) -> None:
        account.begin()
        done = call("benchmarks.producer", *mode, seconds, variables=broker.variables)
        each = done["cpu_s"] / done["published"] * 1e6
        account.lines.append(f"{done['rate']:,.0f} a second, {each:.0f} us of the producer")
        account.end(done["published"])

    return scenario


def _get(broker: PostgresBroker, account: Account, seconds: float) -> None:
    count = int(100 * seconds)
    with Worker(broker, late=True) as worker:
        account.begin(worker.pid)
        call("benchmarks.asker", "gets", count, 0, 0.002, 1, variables=broker.variables)
        account.end(count)


def _idle(broker: PostgresBroker, account: Account, seconds: float) -> None:
    with Worker(broker, late=True) as worker:
        time.sleep(3)  # it looks again after 2 to 250 ms before it sleeps
        account.begin(worker.pid)
        time.sleep(seconds)
        account.end(seconds)


SCENARIOS: dict[str, Callable[[PostgresBroker, Account, float], None]] = {
    "drain-early": _drain("solo", 1, late=False, results=False),
    "drain-late": _drain("solo", 1, late=True, results=False),
    "results-early": _drain("solo", 1, late=False, results=True),
    "results-late": _drain("solo", 1, late=True, results=True),
    "threads": _drain("threads", 4, late=True, results=True),
    "prefork": _drain("prefork", 2, late=True, results=True),
    "publish": _publish("one_by_one", 1, 1_000_000),
    "bulk": _publish("in_bulk", 1_000_000, 1000),
    "get": _get,
    "idle": _idle,
}


def plans(log: str) -> dict[str, str]:
    """The last plan of each of our statements in a server's log."""
    found = {}
    for entry in re.findall(r"duration: [\d.]+ ms  plan:\n((?:\t.*\n)+)", log):
        statement = re.search(r"Query Text: PREPARE (\w+)", entry)
        tree = re.search(r"^.*\(cost=(?s:.*)", entry, flags=re.MULTILINE)
        if statement and tree:
            found[statement[1]] = tree[0].replace("\t", "", 1).replace("\n\t", "\n")
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statements", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--plans", action="store_true")
    given = parser.parse_args()
    unknown = set(given.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}: there are {', '.join(SCENARIOS)}")
    with ExitStack() as stack:
        try:
            cluster = servers.postgres(MAJOR)
            cluster.options |= _EXPLAINING if given.plans else _COUNTING
            stack.enter_context(cluster)
        except UserError as error:
            print(f"benchmarks.statements: {error}", file=sys.stderr)
            return 2
        peer = PostgresPeer(cluster, ours=True, results=True)
        if not given.plans:
            peer.administrate("CREATE EXTENSION pg_stat_statements")
        for name in given.scenarios or SCENARIOS:
            with peer.fresh() as broker, closing(Account(peer, broker, not given.plans)) as account:
                begin = cluster.log.stat().st_size
                SCENARIOS[name](broker, account, given.seconds)
            print(f"\n{name}", *account.lines, sep="\n", flush=True)
            if given.plans:
                with cluster.log.open("rb") as log:
                    log.seek(begin)
                    for statement, tree in plans(log.read().decode(errors="replace")).items():
                        print(f"\n{statement}\n{tree}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
