"""The comparison of two commits: ratios of neighbours, and a checkout that leaves nothing behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import against
from benchmarks.samples import Samples
from environment.errors import UserError
from environment.sources import CHECKOUT
from environment.testkit.children import answer, package_path, start


def test_the_ratio_is_the_median_of_neighbours_and_not_that_of_medians(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    # The machine becomes three times as slow while it measures; each pair sees one pace.
    for pace in (3.0, 2.0, 1.0):
        samples.add("enqueue", "here one_by_one", {"rate": 1_100 * pace, "client_us": 90 / pace})
        samples.add("enqueue", "before one_by_one", {"rate": 1_000 * pace, "client_us": 100 / pace})
    lines = against.table(against.QUESTIONS, samples).splitlines()
    rate, cpu = (line.split() for line in lines[1:])
    assert rate == ["enqueue", "one_by_one", "publishes/s", "2,200.0", "2,000.0", "1.100", "1.100", "…", "1.100", "3"]
    assert cpu == ["enqueue", "one_by_one", "publisher", "µs", "45.0", "50.0", "0.900", "0.900", "…", "0.900", "3"]


def test_a_commit_is_checked_out_only_meanwhile() -> None:
    with against.worktree("HEAD") as folder:
        assert (folder / "benchmarks" / "__init__.py").is_file()
        assert str(folder) in _worktrees()
    assert not folder.exists()
    assert str(folder) not in _worktrees()


def test_a_commit_that_git_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match="worktree add"), against.worktree("no-such-commit"):
        pass


def _worktrees() -> str:
    return subprocess.run(["git", "worktree", "list"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("source", ["backend", "packages/celery-postgres/src"])
def test_a_child_imports_the_package_of_the_other_checkout_and_the_harness_of_this_one(
    tmp_path: Path, source: str
) -> None:
    (tmp_path / "backend").mkdir()
    package = tmp_path / source / "celery_postgres"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    program = (
        "import json, celery_postgres, benchmarks; print(json.dumps([celery_postgres.__file__, benchmarks.__file__]))"
    )
    process = start(["-c", program], {"PYTHONPATH": package_path(tmp_path)})
    assert answer(process, 60) == [str(package / "__init__.py"), str(CHECKOUT / "benchmarks" / "__init__.py")]
