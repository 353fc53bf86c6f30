"""What the suites rely on in their tools."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from environment.sources import CHECKOUT

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


def test_options_are_declared_where_every_pytest_looks_for_them() -> None:
    """A conftest.py of a folder is read after the options, unless the folder is named in the command: 8.3 to 9.0 know
    nothing of what it declares, 9.1 does.  The same goes for plugins."""
    early = re.compile(
        r"^def pytest_(addoption|addhooks|cmdline_\w+|load_initial_conftests)\b|^pytest_plugins\b", re.MULTILINE
    )
    declared = {
        path.relative_to(CHECKOUT)
        for folder in ("tests", "packages", "environment/testkit")
        for path in [*CHECKOUT.glob(f"{folder}/**/*.py"), CHECKOUT / "conftest.py"]
        if early.search(path.read_text())
    }
    assert declared == {Path("conftest.py"), Path("environment/testkit/fixtures.py")}


def test_a_folder_knows_the_options_of_all() -> None:
    words = ["-p", "no:cacheprovider", "-n", "0", "tests/core", "--quick"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *words]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_engine_of_the_tests_leaves_a_sqlite_open() -> None:
    """From Python 3.13 on that is a warning, hence an error, in whichever test the garbage collector comes by."""
    made = [
        (path.name, call)
        for folder in ("tests", "packages", "environment/testkit")
        for path in CHECKOUT.glob(f"{folder}/**/*.py")
        for call in re.findall(r"create_engine\(\s*[\"\']sqlite[^)]*\)", path.read_text())
    ]
    assert made
    assert [one for one in made if "NullPool" not in one[1]] == []
