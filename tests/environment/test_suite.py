"""What the suites rely on in their tools."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

GROUPED = """
import pytest
@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(6))
def test_grouped(number): pass
"""


def test_grouped_tests_share_one_process(tmp_path: Path) -> None:
    """pytest 9.2 with pytest-xdist 3.8 spreads them without a word, and two workers then steal each other's tasks."""
    (tmp_path / "test_grouped.py").write_text(GROUPED)
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", ".", "-p", "no:cacheprovider", "-v"]
    done = subprocess.run(
        [*command, "-n", "2", "--dist", "loadgroup", "test_grouped.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    processes = re.findall(r"\[(gw\d)\].*PASSED", done.stdout)
    assert len(processes) == 6, done.stdout
    assert len(set(processes)) == 1
