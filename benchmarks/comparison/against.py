"""This checkout beside another commit of the same project: ``./dev bench --against COMMIT``.

The same cells run on both in turn, A B B A: what disturbs one sample most likely disturbs its neighbour, so that the
ratio of two neighbours holds still on a machine whose rates do not.  Server, packages and harness are this checkout's;
only ``celery_postgres`` and the tables that it creates are those of the commit.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType

from benchmarks import machine, runner, servers
from benchmarks.comparison.cells import drain, enqueue, imports, latency, memory
from benchmarks.comparison.field import Field
from benchmarks.figures import middle, ratios, values
from benchmarks.samples import Results, Samples
from benchmarks.systems.celery_systems import PostgresSystem
from environment.errors import UserError
from environment.sources import CHECKOUT

HERE, BEFORE = "here", "before"


@dataclass(frozen=True)
class Question:
    """One cell, asked in one way.

    Attributes:
        cell: its module.
        how: what follows the system's name in its variants.
        figures: (key of a sample, what the table calls it); of a rate more is better, of the rest less.
    """

    cell: ModuleType
    how: str
    figures: Sequence[tuple[str, str]]


_RATE_AND_CPU = (("rate", "tasks/s"), ("worker_us", "worker µs"), ("server_us", "server µs"))
_PUBLISHING = (("rate", "publishes/s"), ("client_us", "publisher µs"), ("server_us", "server µs"))
_MEMORY = (
    ("idle_rss_mb", "idle RSS MB"),
    ("rss_mb", "RSS MB after 20,000 tasks"),
    ("uss_mb", "USS MB after 20,000 tasks"),
)

QUESTIONS = (
    *(
        Question(drain, f"0ms {kept}{pool}", _RATE_AND_CPU)
        for pool in ("", " prefork")
        for kept in ("plain", "results", "late-results")
    ),
    Question(enqueue, "one_by_one", _PUBLISHING),
    Question(enqueue, "in_bulk", _PUBLISHING),
    Question(latency, "idle", (("p50", "p50 ms"), ("p99", "p99 ms"))),
    Question(memory, "", _MEMORY),
    Question(imports, "", (("import_ms", "import ms"), ("own_ms", "own import ms"), ("modules", "modules"))),
)


def compare(commit: str, *, quick: bool, only: Sequence[str], pairs: int | None, folder: Path, major: int) -> int:
    """Measure both, print the ratios; how many samples could not be made.

    Args:
        commit: what git calls it.
        only: names of cells; all where there are none.
        pairs: how many pairs of each question, instead of 3 (quick) or 7.
        folder: where the samples go.
        major: of PostgreSQL.

    Raises:
        UserError: where git does not know the commit.
    """
    chosen = [question for question in QUESTIONS if not only or question.cell.NAME in only]
    samples, failed = Samples(folder), 0
    with ExitStack() as stack:
        checkout = stack.enter_context(worktree(commit))
        cluster = stack.enter_context(servers.postgres(major))
        systems = {
            HERE: PostgresSystem(cluster, ours=True, name=HERE),
            BEFORE: PostgresSystem(cluster, ours=True, name=BEFORE, checkout=checkout),
        }
        field = Field(quick, dict(systems), samples)
        about = {"revision": machine.describe()["revision"], "against": commit}
        for repetition in range(pairs or (3 if quick else 7)):
            for question in chosen:
                order = (HERE, BEFORE) if repetition % 2 == 0 else (BEFORE, HERE)
                for name in order:
                    failed += not runner.sample(
                        question.cell,
                        field,
                        f"{name} {question.how}".rstrip(),
                        samples,
                        calm_s=field.pick(2, 10),
                        about=about,
                        repetition=repetition,
                    )
    print(f"\n{machine.describe()['revision']} (here) against {commit} (before)\n")
    print(table(chosen, samples))
    return failed


def table(questions: Sequence[Question], samples: Samples) -> str:
    """The medians of both, the median ratio of neighbours, and its lowest and highest."""
    lines: list[tuple[str, ...]] = [("", "", "here", "before", "here / before", "lowest … highest", "pairs")]
    for question in questions:
        name = question.cell.NAME
        results = samples.of(name)
        lines += [
            row
            for key, label in question.figures
            if (row := _row(f"{name} {question.how}".rstrip(), label, results, question.how, key))
        ]
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    made = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(made)


def _row(name: str, label: str, results: Results, how: str, key: str) -> tuple[str, ...] | None:
    here, before = f"{HERE} {how}".rstrip(), f"{BEFORE} {how}".rstrip()
    found = ratios(results, here, before, key)
    if not found or not values(results, here, key):
        return None
    spread = f"{min(found):.3f} … {max(found):.3f}"
    shown = [f"{middle(results, which, key):,.1f}" for which in (here, before)]
    return (name, label, *shown, f"{median(found):.3f}", spread, str(len(found)))


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of the commit in a temporary folder, gone afterwards.

    Raises:
        UserError: with git's own words, where it has no such commit.
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
