"""Measure this project beside other systems, or beside another commit of its own.

A run that was cut short continues where it ended: samples that are in the folder are not made again.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks import against, report, scale
from benchmarks.about import MismatchError, forget, remember
from benchmarks.cells.all import CELLS, PAGE, QUICK
from benchmarks.pace import begun_again, minutes, until
from benchmarks.run import Run, measure
from benchmarks.samples import Samples
from benchmarks.systems.registry import NAMES, open_systems
from environment.errors import UserError
from environment.installation import DEFAULT_MAJOR
from environment.sources import CHECKOUT
from environment.testkit import measuring, servers

_QUICK = CHECKOUT / ".bench"
#: A full run takes no longer.
_PAGE_MINUTES = 100


def main() -> int:
    """Run what is asked for; 1 if some of it could not be measured."""
    # TERM ends a run as Ctrl-C does: with everything stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.argv[1:2] == ["scale"]:
        return scale.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="./dev bench", description=__doc__, epilog="./dev bench scale: where one server ends (--help after it)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short sample of each; without --minutes it starts anew"
    )
    parser.add_argument("--only", action="append", choices=list(CELLS), help="this cell; repeatable")
    parser.add_argument("--systems", help=f"these, separated by commas: {','.join(NAMES)}")
    parser.add_argument(
        "--out", type=Path, help=f"the folder (default: {report.OWN.relative_to(CHECKOUT)}, --quick: .bench)"
    )
    parser.add_argument(
        "--postgres", type=int, default=DEFAULT_MAJOR, metavar="MAJOR", help="on this PostgreSQL (default: %(default)s)"
    )
    parser.add_argument(
        "--anew", action="store_true", help="throw away the samples that the folder has of what is asked"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="end within N minutes; the same command continues (a full run: 100)"
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
    try:
        failed = _against(given) if given.against else _systems(given, names)
    except (UserError, MismatchError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; the same command continues from here", file=sys.stderr)
        return 130
    if failed:
        print(f"bench: {failed} samples could not be made; the same command tries again", file=sys.stderr)
    return int(failed > 0)


def _against(given: argparse.Namespace) -> int:
    folder: Path = given.out or _QUICK / "against"
    if not given.out:
        shutil.rmtree(folder, ignore_errors=True)
    return against.compare(
        given.against,
        quick=given.quick,
        only=given.only or [],
        pairs=given.pairs,
        folder=folder,
        major=given.postgres,
    )


def _systems(given: argparse.Namespace, names: list[str]) -> int:
    folder: Path = given.out or (_QUICK if given.quick else report.OWN)
    samples = Samples(folder / "raw")
    cells = [CELLS[name] for name in given.only] if given.only else QUICK if given.quick else PAGE
    if (given.anew or (given.quick and not given.minutes)) and not given.report and not begun_again():
        samples.forget(cell.name for cell in cells)
        if not given.only or not any(samples.folder.glob("*.jsonl")):
            forget(samples.folder)
    page = not given.only and not given.quick
    end = until(given.minutes or (_PAGE_MINUTES if page else None))
    failed = 0
    if not given.report:
        with ExitStack() as stack:
            cluster = stack.enter_context(servers.postgres(given.postgres))
            systems, missing = open_systems(cluster, stack, names)
            for name, reason in missing.items():
                print(f"bench: without {name}: {reason}", file=sys.stderr)
            remember(samples.folder, systems, missing)
            run = Run(given.quick, systems, samples, end)
            outcome = measure(cells, run, page=page, revision=measuring.describe()["revision"])
            failed = outcome.failed
        print(f"\n{report.measured(samples, cells)}\n")
        if outcome.left:
            left = minutes(outcome.left, samples.took_s())
            print(f"bench: out of time; {len(outcome.left)} samples are left, about {left:.0f} minutes: run it again")
    print(f"bench: wrote {report.write(folder, samples)}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
