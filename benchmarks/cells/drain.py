"""How fast one worker process empties a queue that was filled before it started."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import Cell, number, spread
from benchmarks.figures import rate
from benchmarks.run import Run, distinct, operations_each, waiting, worker_of
from benchmarks.systems import System
from environment.testkit import measuring
from environment.waiting import wait_until


def variants(run: Run) -> list[str]:
    """Length of a task; whether results are stored, and tasks acknowledged late.  Long tasks run one at a time, empty
    ones as the system is fastest."""
    lengths = (0,) if run.quick else (0, 1, 10)
    found = [f"{name} {ms}ms plain" for ms in lengths for name in run.peers(ceilings=ms == 0)]
    stored = run.present("ours", "redis", "stock") if run.quick else run.that("results")
    found += [f"{name} 0ms results" for name in stored]
    if run.quick:
        return found
    found += [f"{name} 0ms late" for name in run.that("late")]
    return found + [f"{name} 0ms late-results" for name in run.that("late") if run.systems[name].results]


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Tasks a second by the worker's own clock, and the processor time of worker and server for each.

    ``how``: the length; ``plain``, ``results``, ``late`` or ``late-results``; perhaps ``prefork``, with two children,
    or ``prefork-8``.  ``children_us`` is the part of a prefork worker's time that its children spend.
    """
    length, kept, *pool = how.split()
    seconds = int(length.removesuffix("ms")) / 1000
    limit_s = run.pick(3, 3)
    concurrency = 1 if seconds else system.concurrency
    pools = {"pool": "prefork"} if pool else {}
    # A queue that is not emptied in that time is measured as well.
    count = int((1 / seconds if seconds else system.rough * 1.2) * limit_s)
    with system.fresh(results="results" in kept) as broker:
        broker.fill(1, count, seconds)
        children = int("".join(pool).partition("-")[2] or 2) if pool else concurrency
        with worker_of(broker, children, count + 1_000, late="late" in kept, **pools) as worker:
            worker.run_until(1, 60)
            # A child starts for 150 ms, which is not what a task costs.
            wait_until(
                lambda: worker.journal.refresh() and len(worker.journal.by_process) >= (children if pool else 1),
                60,
                "the children",
            )
            meter, before, seen = run.meter(system, worker), broker.operations(), worker.journal.refresh()
            inner = measuring.Meter({"children": sorted(measuring.tree([worker.pid]) - {worker.pid})})
            reached = worker.run_until(count, limit_s)
            spent, after = {**inner.stop(), **meter.stop()}, broker.operations()
            measured = list(worker.journal.records)
        metered = max(1, reached - seen)
        return {
            "rate": rate(measured, skip_s=1.0),
            **distinct(worker),
            "waiting": waiting(broker),
            "filled": count,
            **({"children_us": spent["children"] / metered * 1e6} if pool else {}),
            "worker_us": spent["worker"] / metered * 1e6,
            "server_us": spent["server"] / metered * 1e6,
            "operations": operations_each(before, after, metered),
            "concurrency": concurrency,
        }


def _page(run: Run) -> list[str]:
    """Without what ``processes`` shows, and with tasks of one length beside empty ones."""
    return [variant for variant in variants(run) if " 10ms " not in variant and "late-results" not in variant]


_COSTS = (("worker µs", "worker_us"), ("server µs", "server_us"), ("server operations", "operations"))
CELL = Cell(
    "drain",
    variants,
    measure,
    page=_page,
    tables={
        "drain": [
            ("no-op/s", spread("0ms plain", "rate")),
            ("1 ms/s", spread("1ms plain", "rate")),
            ("no-op with result/s", spread("0ms results", "rate")),
            ("no-op, late ack/s", spread("0ms late", "rate")),
        ],
        "cost": [
            *((label, number("0ms plain", key)) for label, key in _COSTS),
            *(
                (f"with result: {label}" * (key == "worker_us") or label, number("0ms results", key))
                for label, key in _COSTS
            ),
        ],
    },
    printed={"late ack and results": [("no-op, late ack, with result/s", spread("0ms late-results", "rate"))]},
)
