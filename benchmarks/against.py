"""This checkout beside another commit of the same project: ``./dev bench --against COMMIT``.

The same cells run on both in turn, A B B A: a disturbance of one sample most likely disturbs its neighbor too, so that
the ratio of two neighbors is stable on a machine whose rates are not.  Server, packages and harness are this
checkout's; only ``celery_postgres`` and the tables that it creates are those of the commit.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.cells import Cell, drain, enqueue, imports, latency, memory
from benchmarks.figures import middle, ratios
from benchmarks.run import Run, sample
from benchmarks.samples import Results, Samples
from benchmarks.systems.celery_systems import PostgresSystem
from environment.errors import UserError
from environment.sources import CHECKOUT
from environment.testkit import measuring, servers

HERE, BEFORE = "here", "before"
_HEAD = ("", "", HERE, BEFORE, f"{HERE} / {BEFORE}", "lowest … highest", "pairs")


@dataclass(frozen=True)
class Question:
    """One cell, asked in one way.

    Attributes:
        cell: what is measured.
        how: what follows the system's name in its variants.
        figures: (key of a sample, label in the table); of a rate more is better, of the others less.
    """

    cell: Cell
    how: str
    figures: Sequence[tuple[str, str]]


_DRAIN = (("rate", "tasks/s"), ("worker_us", "worker µs"), ("server_us", "server µs"))
_PUBLISH = (("rate", "publishes/s"), ("client_us", "publisher µs"), ("server_us", "server µs"))
_MEMORY = (
    ("idle_rss_mb", "idle RSS MB"),
    ("rss_mb", f"RSS MB after {memory.TASKS:,} tasks"),
    ("uss_mb", f"USS MB after {memory.TASKS:,} tasks"),
)
_KEPT = ("plain", "results", "late-results")

QUESTIONS = (
    *(Question(drain.CELL, f"0ms {kept}{pool}", _DRAIN) for pool in ("", " prefork", " prefork-8") for kept in _KEPT),
    Question(enqueue.CELL, "one_by_one", _PUBLISH),
    Question(enqueue.CELL, "in_bulk", _PUBLISH),
    Question(latency.CELL, "idle", (("p50", "p50 ms"), ("p99", "p99 ms"))),
    Question(memory.CELL, "", _MEMORY),
    Question(imports.CELL, "", (("import_ms", "import ms"), ("own_ms", "own import ms"), ("modules", "modules"))),
)


def compare(commit: str, *, quick: bool, only: Sequence[str], pairs: int | None, folder: Path, major: int) -> int:
    """Measure both, print the ratios; return how many samples could not be made.

    Args:
        commit: as git knows it.
        quick: short samples.
        only: names of cells; none for all.
        pairs: how many pairs of each question, instead of 7 (``quick``: 3).
        folder: where the samples go.
        major: of PostgreSQL.

    Raises:
        UserError: where git does not know the commit.
    """
    chosen = [question for question in QUESTIONS if not only or question.cell.name in only]
    samples, failed = Samples(folder), 0
    revision = measuring.describe()["revision"]
    with ExitStack() as stack:
        checkout = stack.enter_context(worktree(commit))
        cluster = stack.enter_context(servers.postgres(major))
        systems = [
            PostgresSystem(cluster, ours=True, name=HERE),
            PostgresSystem(cluster, ours=True, name=BEFORE, checkout=checkout),
        ]
        run = Run(quick, {system.name: system for system in systems}, samples)
        try:
            for repetition in range(pairs or (3 if quick else 7)):
                for question in chosen:
                    for name in (HERE, BEFORE) if repetition % 2 == 0 else (BEFORE, HERE):
                        variant = f"{name} {question.how}".rstrip()
                        failed += not sample(question.cell, run, variant, repetition, revision=revision, against=commit)
        finally:
            # An interrupted comparison has found something, too.
            print(f"\n{revision} ({HERE}) against {commit} ({BEFORE})\n\n{table(chosen, samples)}")
    return failed


def table(questions: Sequence[Question], samples: Samples) -> str:
    """Return the medians of both, the median ratio of neighbors, and its lowest and highest."""
    lines = [_HEAD]
    for question in questions:
        results = samples.of(question.cell.name)
        lines += [row for key, label in question.figures if (row := _row(question, key, label, results))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    made = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(made)


def _row(question: Question, key: str, label: str, results: Results) -> tuple[str, str, str, str, str, str, str] | None:
    here, before = (f"{name} {question.how}".rstrip() for name in (HERE, BEFORE))
    found = ratios(results, here, before, key)
    if not found:
        return None
    one, two = (f"{middle(results, which, key):,.1f}" for which in (here, before))
    spread = f"{min(found):.3f} … {max(found):.3f}"
    name = f"{question.cell.name} {question.how}".rstrip()
    return name, label, one, two, f"{median(found):.3f}", spread, str(len(found))


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check the commit out into a temporary folder; remove it afterwards.

    Raises:
        UserError: with git's own words, where it does not know the commit.
    """
    with tempfile.TemporaryDirectory(prefix="bench-against-") as parent:
        folder = Path(parent) / "checkout"
        _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*words: str) -> None:
    done = subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"git {' '.join(words[:2])}: {done.stderr.strip() or done.stdout.strip()}")
