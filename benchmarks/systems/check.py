"""Whether a system does what ``benchmarks.systems`` asks of it: ``python -m benchmarks.systems.check NAME…``.

Prints one line for each, with rough rates: enough to see that none of them is set up badly.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from benchmarks import servers
from benchmarks.journal import rate
from benchmarks.programs.publishing import SETTLING
from benchmarks.systems import Ground, System, publish
from benchmarks.systems.registry import NAMES, open_systems
from benchmarks.worker import Worker
from environment.installation import DEFAULT_MAJOR
from environment.waiting import wait_until

_FILL = 2_000
#: Celery's own results in PostgreSQL take 20 ms each.
_FILL_RESULTS = 400
_LIMIT_S = 60


def check(system: System) -> str:
    """Fill and drain, publish in each mode, store results; what was seen.

    :raises AssertionError: when a task is lost, done twice, or left over.
    """
    seen = [_drain(system, 0.0, 0, results=False), _drain(system, 0.001, 500, results=False)]
    seen += [_publish(system, mode) for mode in ("one_by_one", "in_bulk", "paced", "steady")]
    with suppress(NotImplementedError):
        seen.append(_drain(system, 0.0, 0, results=True))
    names = ", ".join(f"{name} {found}" for name, found in system.versions().items())
    return f"{system.name}: {'; '.join(seen)} ({names}; pids {system.pids()})"


def _drain(system: System, seconds: float, size: int, *, results: bool) -> str:
    count = _FILL_RESULTS if results else _FILL
    with system.fresh(results=results) as ground:
        began = time.monotonic()
        ground.fill(1, count // 2, seconds, size)
        ground.fill(count // 2 + 1, count // 2, seconds, size)
        filled = time.monotonic() - began
        wait_until(lambda: ground.waiting() in (None, count), 10, f"{count} tasks to wait")
        before = ground.operations()
        with _worker(system, ground, ready=False) as worker:
            found = _done(worker, count)
            _nothing_waits(ground)
            lasted = min(end - start for _, start, end in worker.journal.records)
        after = ground.operations()
    assert lasted >= seconds * 1e9, f"a task of {seconds} s lasted {lasted} ns"
    each = "" if before is None or after is None else f", {(after - before) / count:.1f} operations each"
    what = " with results" if results else f" of {seconds * 1000:.0f} ms" if seconds else ""
    return f"drains {found:.0f}/s{what} (filled in {filled:.1f} s{each})"


def _publish(system: System, mode: str) -> str:
    with system.fresh() as ground:
        if mode in ("one_by_one", "in_bulk"):
            answer = publish(ground, mode, 1, 2_200, 20, 100, *([0.0] if mode == "in_bulk" else []))
            if answer is None:
                return f"no {mode}"
            count, shown = answer["published"] + 200, f"{answer['rate']:.0f}/s"
            with _worker(system, ground, ready=False) as worker:
                _done(worker, count)
                _nothing_waits(ground)
        else:
            arguments = (1, 40, 0.02, 0.2) if mode == "paced" else (1, 100, 2)
            with _worker(system, ground, ready=True) as worker:
                called = publish(ground, mode, *arguments)
                _done(worker, SETTLING + len(called))
                _nothing_waits(ground)
                started = {number: start for number, start, _ in worker.journal.records}
            waits = sorted((started[number] - begin) / 1e6 for number, begin, _ in called)
            shown = f"p50 {waits[len(waits) // 2]:.1f} ms, worst {waits[-1]:.1f} ms"
    return f"{mode} {shown}"


def _worker(system: System, ground: Ground, *, ready: bool) -> Worker:
    concurrency = system.concurrency
    return Worker(ground, command=ground.worker(concurrency), concurrency=concurrency, capacity=10_000, ready=ready)


def _done(worker: Worker, count: int) -> float:
    """Wait until numbers 1 to ``count`` are done; how many a second were."""
    try:
        worker.run_until(count, _LIMIT_S)
    except RuntimeError:
        print(worker.log_text()[-2000:], file=sys.stderr)
        raise
    numbers = sorted(number for number, _, _ in worker.journal.records)
    assert numbers == list(range(1, count + 1)), (
        f"{len(numbers)} done, {len(set(numbers))} of them different, {count} expected; the worker said: "
        f"{worker.log_text()[-2000:]}"
    )
    return rate(worker.journal.records)


def _nothing_waits(ground: Ground) -> None:
    # The last acknowledgement comes after the task has written its record.
    wait_until(lambda: ground.waiting() in (None, 0), 10, "the queue to be empty")


def main(names: Sequence[str]) -> int:
    """Check these, or all."""
    failed = 0
    with ExitStack() as stack:
        cluster = stack.enter_context(servers.postgres(DEFAULT_MAJOR))
        systems, missing = open_systems(cluster, stack, names or NAMES)
        for name, reason in missing.items():
            print(f"{name}: missing: {reason}")
        for system in systems.values():
            try:
                print(check(system), flush=True)
            except Exception as error:
                failed += 1
                print(f"{system.name}: FAILED: {error!r}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
