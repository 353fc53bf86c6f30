"""Measure this project beside its peers; write tables, plots and the raw samples.

A run that was cut short goes on where it ended: what lies in the folder is not measured again.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks import machine, runner, servers
from benchmarks.comparison import against, report
from benchmarks.comparison.about import MismatchError, remember
from benchmarks.comparison.cells import CELLS, QUICK
from benchmarks.comparison.field import Field
from benchmarks.samples import Samples
from benchmarks.systems.registry import NAMES, open_systems
from environment.errors import UserError
from environment.installation import DEFAULT_MAJOR
from environment.sources import CHECKOUT

_FULL = report.OWN
_QUICK = CHECKOUT / ".bench"


def main() -> int:
    """Run what is asked for; 1 if something of it could not be measured."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 5 minutes, with more spread; always made anew")
    parser.add_argument("--only", action="append", choices=[cell.NAME for cell in CELLS], help="this cell; repeatable")
    parser.add_argument("--systems", help=f"these, with commas between: {','.join(NAMES)}")
    parser.add_argument(
        "--out", type=Path, help=f"the folder (default: {_FULL.relative_to(CHECKOUT)}, --quick: .bench)"
    )
    parser.add_argument(
        "--postgres", type=int, default=DEFAULT_MAJOR, metavar="MAJOR", help="on this PostgreSQL (default: %(default)s)"
    )
    parser.add_argument("--report", action="store_true", help="only write tables and plots of what has been measured")
    parser.add_argument(
        "--against", metavar="COMMIT", help="this checkout and that commit in turn: ratios of rates, CPU and memory"
    )
    parser.add_argument("--pairs", type=int, metavar="N", help="with --against: N pairs (default: 7, --quick: 3)")
    given = parser.parse_args()
    names = given.systems.split(",") if given.systems else list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"no system {unknown[0]!r}; there are {', '.join(NAMES)}")
    # TERM ends a run as Ctrl-C does: with everything stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if given.against:
        return _compare(given)
    folder: Path = given.out or (_QUICK if given.quick else _FULL)
    if given.quick and not given.report:
        shutil.rmtree(folder / "raw", ignore_errors=True)
    samples = Samples(folder / "raw")
    failed = 0
    try:
        if not given.report:
            failed = _measure(given, names, samples)
        print(f"bench: wrote {report.write(folder, samples)}")
    except (UserError, MismatchError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if failed:
        print(f"bench: {failed} samples could not be made; the same command tries again", file=sys.stderr)
    return int(failed > 0)


def _compare(given: argparse.Namespace) -> int:
    folder: Path = given.out or _QUICK / "against"
    if not given.out:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        failed = against.compare(
            given.against,
            quick=given.quick,
            only=given.only or [],
            pairs=given.pairs,
            folder=folder,
            major=given.postgres,
        )
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return int(failed > 0)


def _measure(given: argparse.Namespace, names: list[str], samples: Samples) -> int:
    cells = QUICK if given.quick else CELLS
    if given.only:
        cells = [cell for cell in CELLS if cell.NAME in given.only]
    with ExitStack() as stack:
        cluster = stack.enter_context(servers.postgres(given.postgres))
        systems, missing = open_systems(cluster, stack, names)
        for name, reason in missing.items():
            print(f"bench: without {name}: {reason}", file=sys.stderr)
        remember(samples.folder, systems, missing)
        field = Field(given.quick, systems, samples)
        revision = machine.describe()["revision"]
        return runner.measure(cells, field, samples, calm_s=field.pick(2, 20), revision=revision)


if __name__ == "__main__":
    sys.exit(main())
