"""``python -m benchmarks broker|results [--quick] [--only CELL …] [--out DIR]``."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import machine, runner
from benchmarks.bench import open_bench
from benchmarks.cells import SUITES
from benchmarks.figures import table
from benchmarks.samples import Samples
from environment.errors import UserError
from environment.installation import DEFAULT_MAJOR


def main() -> int:
    """Run the benchmarks; 0 whatever they measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("--quick", action="store_true", help="a few minutes, with more spread")
    names = [cell.NAME for cells in SUITES.values() for cell in cells]
    parser.add_argument("--only", action="append", choices=names, help="this cell only; may be repeated")
    parser.add_argument(
        "--out", type=Path, help="keep the raw JSON here and resume from what is there; else it is thrown away"
    )
    parser.add_argument("--repeat", type=int, help="repetitions, instead of each cell's own number")
    parser.add_argument("--postgres", type=int, default=DEFAULT_MAJOR, help="the major (default: %(default)s)")
    given = parser.parse_args()
    # TERM ends a run as Ctrl-C does: with everything stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cells = [cell for cell in SUITES[given.suite] if given.only is None or cell.NAME in given.only]
    with ExitStack() as stack:
        folder = given.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            bench = stack.enter_context(
                open_bench(quick=given.quick, major=given.postgres, results=given.suite == "results")
            )
        except UserError as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            return 2
        for name, what in (("ours", "celery_postgres"), ("redis", "redis-server or redis-py")):
            if name not in bench.peers:
                print(f"without {name}: {what} is not there")
        about, samples = machine.describe(), Samples(folder)
        settings = {name: peer.describe() for name, peer in bench.peers.items()}
        runner.measure(
            cells, bench, samples, calm_s=bench.pick(5, 20), repetitions=given.repeat, machine=about, peers=settings
        )
        print(f"\n{about['processors']} x {about['processor']}, {about['memory_gb']} GB, {about['system']}")
        for peer in bench.peers.values():
            print(f"{peer.label}: {peer.describe()['server']}, durable: {peer.durable}")
        print(f"\n{table(runner.rows(cells, samples))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
