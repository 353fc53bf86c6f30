"""``./dev fuzz``: hostile input, guided by coverage, for the code that reads it first."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from environment.errors import UserError
from environment.sources import CHECKOUT, python_path
from environment.tools import declared, locked_venv

#: In the order in which they run; each is a module of ``fuzz/``.
TARGETS = ("messages", "addresses", "results", "payloads", "front")
#: Corpora and findings.
KEPT = CHECKOUT / ".fuzz"
#: The seconds that one input may take, and the memory of the process; more is a finding.
_SECONDS_EACH = 10
_MEGABYTES = 1024
_LONGEST_INPUT = 4096
#: libFuzzer's line: number of executions, edges, features.
_PROGRESS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)")
_DONE = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_RATE = re.compile(r"stat::average_exec_per_sec:\s+(\d+)")


def fuzz(arguments: Sequence[str]) -> int:
    """Run targets one after another. Return 1 if one of them has a finding, which stops that target."""
    given = _parser().parse_args(arguments)
    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        raise UserError(f"no target {min(unknown)!r}; there are {', '.join(TARGETS)}")
    if given.replay and (len(given.targets) != 1 or not given.replay.is_file()):
        raise UserError("--replay wants one target before it, and a file that there is")
    python = _python()
    if given.replay:
        return _start(python, given.targets[0], [str(given.replay.resolve())]).wait()
    return max([_run(python, target, given) for target in given.targets or TARGETS])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="per target (60)")
    parser.add_argument("--runs", type=int, default=-1, help="the most executions per target")
    parser.add_argument("--seed", type=int, default=0, help="the same inputs again, from an empty .fuzz (0: others)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input of one target")
    return parser


def _python() -> str:
    """The Python of ``.venv-fuzz``: the locked packages and atheris, which only this command needs."""
    from environment.bootstrap import install

    folder = locked_venv("fuzz", "test")
    if not list(folder.glob("lib/python*/site-packages/atheris")):
        install(folder, declared()["optional-dependencies"]["fuzz"])
    return str(folder / "bin" / "python")


def _run(python: str, target: str, given: argparse.Namespace) -> int:
    folder = KEPT / target
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={given.seconds}",
        f"-runs={given.runs}",
        f"-seed={given.seed}",
        f"-timeout={_SECONDS_EACH}",
        f"-rss_limit_mb={_MEGABYTES}",
        f"-max_len={_LONGEST_INPUT}",
        f"-artifact_prefix={folder}{os.sep}",
        "-print_final_stats=1",
        str(corpus),
        str(folder / "seeds"),
    ]
    before = set(folder.glob("*-*"))
    process = _start(python, target, options, stderr=subprocess.PIPE)
    try:
        _, text = process.communicate()
        status = process.returncode
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    progress = _PROGRESS.findall(text)
    (_, first_edges, _), (_, edges, features) = (progress[0], progress[-1]) if progress else (("0",) * 3,) * 2
    executed, rate = (found[1] if (found := one.search(text)) else "?" for one in (_DONE, _RATE))
    print(
        f"{target:10} {executed:>9} executions  {rate:>6}/s  {edges:>5} edges ({first_edges} at first)  "
        f"{features:>5} features  {'a finding' if status else 'nothing found'}",
        flush=True,
    )
    if status:
        print(*text.splitlines()[-60:], sep="\n", file=sys.stderr)
        for path in sorted(set(folder.glob("*-*")) - before):
            print(f"kept: {path}\nagain: ./dev fuzz {target} --replay {path.relative_to(CHECKOUT)}", flush=True)
    return 1 if status else 0


def _start(python: str, target: str, options: Sequence[str], stderr: int | None = None) -> "subprocess.Popen[str]":
    # The result of a seed must not depend on the hashes of this process.
    environment = os.environ | {"PYTHONPATH": python_path(), "PYTHONHASHSEED": "0"}
    command = [python, "-P", "-m", "fuzz", target, str(KEPT / target / "seeds"), *options]
    return subprocess.Popen(command, cwd=CHECKOUT, env=environment, stderr=stderr, text=True, errors="replace")
