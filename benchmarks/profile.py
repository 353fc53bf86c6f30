"""Where the time goes: ``python -m benchmarks.profile worker|publisher PEER [--seconds N] [--late] [--out FILE]``.

Needs py-spy, which samples a process from outside.  Prints the functions that had the processor themselves and
those that had it with all they called, as shares of the samples; ``--out`` keeps the collapsed stacks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks.bench import open_bench
from benchmarks.processes import start
from benchmarks.worker import Worker


def main() -> int:
    """Profile one process and print its report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("who", choices=["worker", "publisher"])
    parser.add_argument("peer", choices=["ours", "redis", "stock"])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--late", action="store_true")
    parser.add_argument("--prefetch", type=int, default=4)
    parser.add_argument("--idle", action="store_true", help="count waiting as well")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        bench = stack.enter_context(open_bench(quick=True, major=16))
        broker = stack.enter_context(bench.peers[given.peer].fresh())
        if given.who == "worker":
            broker.fill(1, 12_000 * given.seconds)
            worker = stack.enter_context(
                Worker(broker, late=given.late, prefetch=given.prefetch, capacity=500_000, ready=False)
            )
            worker.run_until(200, 30)
            pid = worker.pid
        else:
            arguments = ["-m", "benchmarks.producer", "one_by_one", "1", "10000000", str(given.seconds + 5)]
            process = stack.enter_context(start(arguments, broker.variables, stdout=subprocess.DEVNULL))
            # Its imports are not what is asked for.
            stack.callback(process.terminate)
            pid = process.pid
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)
        stacks = folder / "stacks"
        words = ["py-spy", "record", "-p", str(pid), "-d", str(given.seconds), "-r", "400", "-f", "raw", "-t"]
        subprocess.run(
            [*words, *(["--idle"] if given.idle else []), "-o", str(stacks)], check=True, capture_output=True
        )
        text = stacks.read_text()
        if given.out:
            given.out.write_text(text)
        print(report(text))
    return 0


def report(stacks: str, lines: int = 45) -> str:
    """The functions with the largest shares."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        path, count = line.rsplit(" ", 1)
        frames = [_short(frame) for frame in path.split(";")]
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    found = [f"{total} samples", "", "own time"]
    found += [f"{count / total:6.1%}  {frame}" for frame, count in own.most_common(lines)]
    found += ["", "with all it calls"]
    found += [f"{count / total:6.1%}  {frame}" for frame, count in whole.most_common(lines * 2)]
    return "\n".join(found)


def _short(frame: str) -> str:
    name, _, place = frame.partition(" (")
    path = place.rstrip(")").rpartition(":")[0]
    return f"{name} {'/'.join(path.split('/')[-3:])}" if place else frame


if __name__ == "__main__":
    sys.exit(main())
