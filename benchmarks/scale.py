"""Measure where one server ends: workers, publishers, queues, tenants, connections, a backlog, payloads.

A run that was cut short, or that `--minutes` has ended, continues where it ended: samples that are in the folder are
not made again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import scale_page
from benchmarks.about import MismatchError, remember
from benchmarks.cells import (
    Cell,
    scale_backlog,
    scale_connections,
    scale_payload,
    scale_pools,
    scale_publishers,
    scale_queues,
    scale_workers,
)
from benchmarks.pace import begun_again, until
from benchmarks.run import Run, measure
from benchmarks.samples import Samples
from benchmarks.systems.celery_systems import PostgresSystem
from environment.errors import UserError
from environment.installation import DEFAULT_MAJOR
from environment.sources import CHECKOUT
from environment.testkit import measuring, servers

#: The project's own samples, and where ``--quick`` leaves its own.
OWN = CHECKOUT / "docs" / "benchmarks" / "scale"
_QUICK = CHECKOUT / ".bench" / "scale"

CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        scale_payload.DISK,
        scale_pools.CELL,
        scale_payload.PAYLOAD,
        scale_publishers.PUBLISHERS,
        scale_publishers.NOTIFY,
        scale_connections.CELL,
        scale_queues.QUEUES,
        scale_queues.TENANTS_CELL,
        scale_workers.CELL,
        scale_backlog.CELL,
    )
}
#: The most that a full run takes, and a quick one.
MINUTES, QUICK_MINUTES = 60.0, 4.8


def main(words: Sequence[str]) -> int:
    """Run what is asked for; 1 if some of it could not be measured, or was left for the next time."""
    parser = argparse.ArgumentParser(prog="./dev bench scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 5 minutes, and fewer sizes; always starts anew")
    parser.add_argument("--only", action="append", choices=list(CELLS), help="this cell; repeatable")
    parser.add_argument("--anew", action="store_true", help="throw away the samples that the folder has")
    parser.add_argument("--minutes", type=float, metavar="N", help="end within N minutes (default: 60)")
    parser.add_argument(
        "--out", type=Path, help=f"the folder (default: {OWN.relative_to(CHECKOUT)}, --quick: .bench/scale)"
    )
    parser.add_argument(
        "--postgres", type=int, default=DEFAULT_MAJOR, metavar="MAJOR", help="on this PostgreSQL (default: %(default)s)"
    )
    parser.add_argument("--report", action="store_true", help="only write tables and plots of what has been measured")
    given = parser.parse_args(words)
    folder: Path = given.out or (_QUICK if given.quick else OWN)
    if (given.anew or given.quick) and not given.report and not begun_again():
        shutil.rmtree(folder / "raw", ignore_errors=True)
    samples, left = Samples(folder / "raw"), 0
    if not given.report:
        minutes = given.minutes or (QUICK_MINUTES if given.quick else MINUTES)
        cells = [CELLS[name] for name in given.only or CELLS]
        try:
            left = missing(cells, samples, quick=given.quick, major=given.postgres, until=until(minutes))
        except (UserError, MismatchError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("bench: interrupted; the same command continues from here", file=sys.stderr)
            return 130
    print(f"bench: wrote {scale_page.write(folder, samples)}")
    if left:
        print(f"bench: {left} samples are missing; the same command continues", file=sys.stderr)
    return int(left > 0)


def missing(cells: Sequence[Cell], samples: Samples, *, quick: bool, major: int, until: float) -> int:
    """Make the samples that are missing; return how many are then still missing.

    Args:
        cells: what is asked.
        samples: those that there are.
        quick: fewer sizes, and shorter.
        major: of PostgreSQL.
        until: the monotonic time at which it must have ended.
    """
    cluster = servers.postgres(major)
    cluster.options["max_connections"] = str(scale_connections.MAX_CONNECTIONS)
    # On by default; here it is no option of the command line, which ALTER SYSTEM could not change.
    del cluster.options["full_page_writes"]
    with cluster:
        system = PostgresSystem(cluster, ours=True)
        remember(samples.folder, {system.name: system}, {})
        run = Run(quick, {system.name: system}, samples, until)
        outcome = measure(cells, run, revision=measuring.describe()["revision"])
    return outcome.failed + len(outcome.left)
