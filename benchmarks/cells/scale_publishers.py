"""How many publishers one server bears, alone and beside workers that sleep; and what NOTIFY allows at all."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any

from benchmarks.cells import Cell, ceiling
from benchmarks.cells.scale_parts import Wal, fleet, ours, quiet, together
from benchmarks.figures import percentile
from benchmarks.run import Run
from benchmarks.systems.clusters import connect
from benchmarks.systems.databases import COLUMNS, ENVELOPE, PgBench

COUNTS = (1, 2, 4, 8, 16, 32)
CLIENTS = (1, 4, 8, 16, 32)
_SLEEPERS = 8
_CHANNEL = "bench"

_INSERT = f"""
    INSERT INTO kombu_message ({COLUMNS})
    VALUES (nextval('message_id_sequence'), true, 1, 1, gen_random_uuid()::text, repeat('e', {ENVELOPE}))"""
STATEMENTS = {
    "plain": f"{_INSERT};",
    "notify": f"WITH new AS ({_INSERT} RETURNING 1) SELECT pg_notify('{_CHANNEL}', '') FROM new;",
}
#: Sessions that listen, for the kinds that have some.
_LISTENING = {"plain": 0, "notify": 2, "heard": 100}


def measure(run: Run, variant: str) -> dict[str, Any]:
    """``4 alone``: publishes a second of all, one by one; ``4 woken``: the same beside 8 idle workers, which take the
    tasks."""
    words = variant.split()
    system, seconds = ours(run), run.pick(2, 5)
    with system.fresh() as broker, ExitStack() as stack:
        workers = [stack.enter_context(fleet(broker, _SLEEPERS))] if words[1] == "woken" else []
        meter, wal = run.meter(system, *workers), Wal(system, broker)
        done = together(broker, int(words[0]), seconds)
        spent = meter.stop()
        published = done["published"] + done["warm_up"]
        calls = done.pop("calls_ms")
        return {
            **done,
            "p50": percentile(calls, 0.5),
            "p99": percentile(calls, 0.99),
            "client_us": done["cpu_s"] / done["published"] * 1e6,
            "server_us": spent["server"] / published * 1e6,
            "workers_us": spent["worker"] / published * 1e6,
            **wal.since(published),
        }


def variants(run: Run) -> list[str]:
    """Processes; beside nothing, or beside workers that sleep."""
    counts = (1, 8) if run.quick else COUNTS
    return [f"{count} {how}" for count in counts for how in ("alone", "woken")]


def measure_notify(run: Run, variant: str) -> dict[str, Any]:
    """Commits a second of pgbench: of one row, of a row and a notification, and the same with a hundred listeners."""
    words = variant.split()
    cluster = ours(run).cluster
    program = ceiling.program(cluster)
    with PgBench(cluster).fresh() as broker, ExitStack() as stack:
        for _ in range(_LISTENING[words[1]]):
            listener = stack.enter_context(closing(connect(broker.url)))
            with listener.cursor() as cursor:
                cursor.execute(f"LISTEN {_CHANNEL}")
        statement = STATEMENTS["plain" if words[1] == "plain" else "notify"]
        meter, seconds = run.meter(ours(run)), int(run.pick(2, 5))
        tps = ceiling.pgbench(program, broker.url, statement, seconds, int(words[0]))
        quiet(broker)
        return {"tps": tps, "server_us": meter.stop()["server"] / (tps * seconds) * 1e6}


def notify_variants(run: Run) -> list[str]:
    """Clients of pgbench, where it is installed."""
    if ceiling.program(ours(run).cluster) is None:
        return []
    return [f"{clients} {kind}" for clients in ((16,) if run.quick else CLIENTS) for kind in _LISTENING]


PUBLISHERS = Cell("publishers", variants, measure, per_system=False, repetitions=1)
NOTIFY = Cell("notify", notify_variants, measure_notify, per_system=False, repetitions=1)
