"""`.ci/again`: a test that fails once is named; what fails again, or with many others, is a failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from environment.sources import CHECKOUT

#: Tests that fail in the first `times` runs.
TESTS = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_unsteady(number):
    ran = Path(f"ran-{{number}}")
    times = len(ran.read_text()) if ran.exists() else 0
    ran.write_text("x" * (times + 1))
    assert times >= {times}

def test_steady():
    pass
"""


@pytest.mark.parametrize(
    ("count", "times", "status", "runs"),
    [(1, 0, 0, 1), (3, 1, 0, 3), (1, 2, 1, 2), (4, 1, 1, 1)],
    ids=["none fails", "three fail once", "one fails again", "four fail"],
)
def test_what_fails_once_is_named(tmp_path: Path, count: int, times: int, status: int, runs: int) -> None:
    (tmp_path / "test_some.py").write_text(TESTS.format(count=count, times=times))
    command = [CHECKOUT / ".ci" / "again", sys.executable, "-m", "pytest", "test_some.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == status, ended.stdout + ended.stderr
    assert (tmp_path / "ran-0").read_text() == "x" * runs
    named = [line for line in ended.stdout.splitlines() if line.startswith("UNSTABLE")]
    expected = range(count) if status == 0 and times else ()
    assert named == [f"UNSTABLE, to be mended: test_some.py::test_unsteady[{number}]" for number in expected]


def test_what_is_no_failure_of_a_test_stays_one(tmp_path: Path) -> None:
    command = [CHECKOUT / ".ci" / "again", sys.executable, "-m", "pytest", "no-such-file.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, "once more" in ended.stdout) == (4, False)
