"""``./dev conformance``: Celery's and Kombu's own integration tests, on PostgreSQL alone and beside it on Redis."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from environment.checkout import make_state
from environment.errors import UserError
from environment.sources import CHECKOUT
from tests.conformance.known import OURS, REDIS, Known, failing, read, wrong
from tests.conformance.suites import SUITES, Run, Suite, system
from tests.conformance.upstream import unpacked, version

PAGE = CHECKOUT / "docs" / "conformance.md"


def main(arguments: Sequence[str]) -> int:
    """1 when a test fails that the page does not list, or one passes that it lists."""
    given = _parser().parse_args(arguments)
    if shutil.which("redis-server") is None:
        raise UserError("there is no redis-server, where tasks of Celery's tests take notes (.ci/programs installs it)")
    kept = make_state() / "conformance"
    kept.mkdir(exist_ok=True)
    known = read(PAGE)
    differences: list[str] = []
    for suite in [SUITES[name] for name in given.suites or SUITES]:
        outcomes = _run(suite, given, kept)
        _print(suite, outcomes, known)
        differences += wrong(suite.package, outcomes[OURS], known)
    for line in differences:
        print(f"conformance: {line}", file=sys.stderr)
    return int(bool(differences))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev conformance")
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], metavar="SUITE", help=" or ".join(SUITES))
    parser.add_argument("--quick", action="store_true", help="part of Celery's, and not on Redis: what .ci/run does")
    parser.add_argument("--python", required=True, help=argparse.SUPPRESS)
    return parser


def _run(suite: Suite, given: argparse.Namespace, kept: Path) -> dict[str, dict[str, str]]:
    """System → id of a test → how it ended.  The systems run side by side: the tests mostly wait."""
    tests = unpacked(given.python, suite.package, kept)
    names = [OURS] if given.quick else [OURS, REDIS]
    with ExitStack() as stack:
        runs = []
        for name in names:
            variables = stack.enter_context(system(name))
            runs.append(Run(suite, name, given.python, tests, kept, variables, given.quick))
            stack.callback(runs[-1].end)
        print(f"{suite.package} {version(given.python, suite.package)}", flush=True)
        outcomes = {}
        for run in runs:
            outcomes[run.name] = run.wait()
            print(f"  {run.name:16} {_counts(outcomes[run.name])}; {run.seconds:.0f} s, log {run.log}", flush=True)
    return outcomes


def _counts(ended: Mapping[str, str]) -> str:
    counts = Counter(ended.values())
    return ", ".join(f"{counts[how]} {how}" for how in ("passed", "failed", "skipped", "xfailed") if counts[how])


def _print(suite: Suite, outcomes: Mapping[str, Mapping[str, str]], known: Mapping[tuple[str, str], Known]) -> None:
    """Each test that failed, where, and the reason if there is one."""
    for test in sorted(set().union(*map(failing, outcomes.values()))):
        systems = ", ".join(name for name, ended in outcomes.items() if ended.get(test) == "failed")
        reason = known[suite.package, test].reason if (suite.package, test) in known else "not listed"
        print(f"    {test}\n      fails on {systems}: {reason}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, RuntimeError, TimeoutError) as error:
        sys.exit(f"dev: {error}")
