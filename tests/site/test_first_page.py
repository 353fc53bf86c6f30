"""The first page, typed by a new user: an empty folder, an empty virtual environment, a bare database, two shells."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT
from environment.testkit.machine import unavailable
from environment.waiting import wait_until
from tests.runbook.pages import Block, missing, read
from tests.site.story import FIRST, PACKAGE_README, Story, saved_as, site_blocks

INDEX = FIRST[0]
NOT_RELEASED = CHECKOUT / "docs/_parts/not-released.md"
#: "From an empty folder to a result": three commands in less.
LIMIT_S = 60

blocks = site_blocks(INDEX)


def commands() -> list[str]:
    return [line for block in blocks if block.language == "sh" for line in block.text.splitlines()]


def test_there_are_three_commands() -> None:
    assert len(commands()) == 3
    assert [saved_as(block) for block in blocks] == ["mine.py", None, None]


def test_the_package_readme_has_the_same_first_task() -> None:
    def text(block: Block) -> tuple[str, str]:
        return block.language, block.text

    assert list(map(text, site_blocks(PACKAGE_README))) == list(map(text, blocks))


def test_the_package_readme_has_all_extras() -> None:
    declared = tomllib.loads((CHECKOUT / "packages/celery-postgres/pyproject.toml").read_text())["project"]
    extras = read(PACKAGE_README).partition("## Extras")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", extras, re.M)) == set(declared["optional-dependencies"])


def test_the_package_readme_leads_nowhere_on_pypi() -> None:
    """There a path of the repository is a broken link."""
    assert re.findall(r"\]\((?!https://)[^)]*\)", read(PACKAGE_README)) == []


def test_how_to_install_is_said_in_one_place() -> None:
    """At the release, docs/_parts/not-released.md becomes empty, and its text leaves the README."""
    text = NOT_RELEASED.read_text().strip()
    assert text in read(PACKAGE_README)
    assert ("no release" in read(PACKAGE_README)) == bool(text)
    others = [path for path in (CHECKOUT / "docs").rglob("*.md") if path != NOT_RELEASED and "_build" not in path.parts]
    assert [path for path in others if "no release on PyPI" in path.read_text()] == []


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """A folder with the package's wheel."""
    folder = tmp_path / "wheelhouse"
    words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder)]
    done = subprocess.run(
        [*words, str(CHECKOUT / "packages/celery-postgres")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        unavailable(f"pip cannot build the wheel here, which needs hatchling: {done.stderr[-500:]}")
    return folder


@pytest.fixture
def new_user(tmp_path: Path, wheelhouse: Path, fresh: Callable[..., Any]) -> Iterator[Story]:
    """An empty folder and an empty environment. pip finds the package where PyPI would have it: under its name."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    (tmp_path / "empty").mkdir()
    with fresh() as database, Story(tmp_path / "empty", database.url, (tmp_path / "venv/bin",)) as story:
        del story.variables["PYTHONPATH"], story.variables["DATABASE_URL"]
        story.variables["PIP_FIND_LINKS"] = str(wheelhouse)
        yield story


@pytest.mark.runbook
def test_the_first_result(new_user: Story, tmp_path: Path) -> None:
    program, first, second = blocks
    began = time.monotonic()
    new_user.run(program)
    install, call = first.text.strip().splitlines()
    try:
        new_user.type(install, "pip install")
    except AssertionError as error:
        if "No matching distribution" in str(error) or "ConnectionError" in str(error):
            unavailable(f"pip cannot install Celery here: {error}")
        raise
    installed = time.monotonic()
    new_user.type(f"{call} >first-shell 2>&1 &", call)
    shell = tmp_path / "empty/first-shell"
    # The worker may start first, or last: the program has created the tables before it sends.
    with_tables = "SELECT 1 FROM kombu_message"
    check = f"until python -c \"import mine, psycopg2; psycopg2.connect(mine.URL).cursor().execute('{with_tables}')\""
    new_user.type(f"{check} 2>/dev/null; do :; done", "the tables")
    new_user.type(f"{second.text.strip()} >second-shell 2>&1 &", "worker")
    wait_until(lambda: bool(shell.read_text().strip()), LIMIT_S, "the first result")
    took = time.monotonic() - began
    assert missing(("5",), shell.read_text()) is None, shell.read_text()
    sys.stdout.write(f"first result after {took:.1f} s, {installed - began:.1f} s of them pip's\n")  # shown with -rP
    assert took < LIMIT_S, f"{took:.0f} s, {installed - began:.0f} s of them pip's"
