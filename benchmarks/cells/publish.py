"""How fast one producer publishes."""

from __future__ import annotations

import time
from contextlib import closing
from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, comparison, middle, number, ratios, spread, values
from benchmarks.peers import PostgresBroker, PostgresPeer
from benchmarks.processes import call
from benchmarks.samples import Results

NAME = "publish"
REPETITIONS = 7
QUICK_REPETITIONS = 3

_COUNT = 20_000


def variants(bench: Bench) -> list[str]:
    """Peers one by one, the bare insert, ours in bulk."""
    found = [*bench.present("ours", "redis", "memory", "stock"), "insert"]
    return [*found, "bulk"] if "ours" in bench.peers else found


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """Publishes in a second."""
    limit_s = bench.pick(3, 6)
    name = {"insert": "ours" if "ours" in bench.peers else "stock", "bulk": "ours"}.get(variant, variant)
    peer = bench.peers[name]
    with peer.fresh() as broker:
        if variant == "insert":
            if not isinstance(peer, PostgresPeer):
                raise TypeError(name)
            return _insert(peer, broker, limit_s)
        meter = bench.meter(peer)
        if variant == "bulk":
            arguments: list[object] = ["in_bulk", _COUNT * 4, 1000, limit_s]
        else:
            arguments = ["one_by_one", 1, _COUNT * (4 if name == "memory" else 1), limit_s]
        done = call("benchmarks.producer", *arguments, variables=broker.variables)
        spent = meter.stop()
        if done is None:
            return {"rate": None, "reason": "no context manager for many publishes"}
        # The warm-up is in the server's seconds, and is a few percent of them.
        each = 1e6 / (done["published"] + 200)
        client_us = done["cpu_s"] / done["published"] * 1e6
        return {**done, "client_us": client_us, "server_us": spent["server"] * each, "cpu": spent}


def _insert(peer: PostgresPeer, broker: PostgresBroker, limit_s: float) -> dict[str, Any]:
    """What psycopg2 and PostgreSQL allow: the same row, prepared, one commit each."""
    names = ["payload", *peer.columns]
    slots = ", ".join(f"${position}" for position in range(1, len(names) + 1))
    with closing(broker.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"PREPARE bare AS INSERT INTO kombu_message (id, {', '.join(names)}) "
            f"VALUES (nextval('{peer.sequence}'), {slots})"
        )
        execute = f"EXECUTE bare ({', '.join(['%s'] * len(names))})"
        rows = []
        for position in range(1, 5001):
            task_id, raw = peer.clones.make(position)
            rows.append([raw, *(task_id if name == "task_id" else value for name, value in peer.columns.items())])
        for row in rows[:200]:
            cursor.execute(execute, row)
        begin = time.perf_counter()
        done = 0
        while done < _COUNT and time.perf_counter() - begin < limit_s:
            cursor.execute(execute, rows[done % len(rows)])
            done += 1
        seconds = time.perf_counter() - begin
    return {"published": done, "seconds": seconds, "rate": done / seconds}


def rows(results: Results) -> list[Row]:
    """Against Redis, against what is possible, in bulk."""
    figure = "apply_async/s, one producer"
    possible = [
        1 / (1 / memory["rate"] + 1 / insert["rate"])
        for memory, insert in zip(results.get("memory", []), results.get("insert", []), strict=False)
    ]
    ours = values(results, "ours", "rate")
    shares = [one / two for one, two in zip(ours, possible, strict=False)]
    found = [
        comparison(f"{figure}, against Redis (not durable)", "0.75 x", results, "ours", "redis"),
        Row(
            f"{figure}, against Celery's own part plus a bare prepared insert",
            "0.9 x",
            f"{median(ours) if ours else 0:,.0f} / {median(possible) if possible else 0:,.0f}",
            f"{median(shares):.2f} x" if shares else "-",
            spread(shares),
        ),
        comparison("apply_async/s in bulk of 1,000, against Redis one by one", "4 x", results, "bulk", "redis"),
        comparison(f"{figure}, against stock sqla", "", results, "ours", "stock"),
        comparison("Celery's own part (in-memory) / a bare prepared insert", "", results, "memory", "insert"),
    ]
    for key, where in (("client_us", "producer"), ("server_us", "server")):
        peers = ("ours", "bulk", "redis", "memory")
        shown = " / ".join(number(middle(results, peer, key)) for peer in peers)
        found.append(Row(f"CPU us a publish in the {where}, ours / in bulk / Redis / in-memory", "", shown))
    if ratios(results, "bulk", "ours", "rate"):
        found.append(comparison("apply_async/s in bulk, against one by one", "", results, "bulk", "ours"))
    return found
