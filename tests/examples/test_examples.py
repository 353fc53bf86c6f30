"""Each project of `examples/`, as its README says: its commands, typed in a copy of its folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT
from tests.examples.shell import follow, typed
from tests.runbook.pages import blocks

EXAMPLES = CHECKOUT / "examples"
#: With tests of their own; .ci/nix runs that of Nix.
ELSEWHERE = {"django", "first", "nix", "poolers", "several-databases"}
#: Each in a process of its own, so that they share the machine.
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md") if path.parent.name not in ELSEWHERE)


@pytest.mark.parametrize("name", NAMES)
def test_a_readme_does_what_it_says(
    name: str, fresh: Callable[..., AbstractContextManager[Any]], tmp_path: Path
) -> None:
    folder = shutil.copytree(EXAMPLES / name, tmp_path / name)
    with fresh() as database:
        follow(f"examples/{name}/README.md", folder, {"DATABASE_URL": database.tcp_url or database.url})


@pytest.mark.parametrize("name", NAMES)
def test_a_project_is_complete(name: str) -> None:
    page = f"examples/{name}/README.md"
    assert (EXAMPLES / name / "requirements.txt").read_text().startswith("celery-postgres[")
    assert typed(page)
    assert [one.not_run for one in blocks(page) if one.not_run] == [
        "the tests have the packages, and a database of their own"
    ]
