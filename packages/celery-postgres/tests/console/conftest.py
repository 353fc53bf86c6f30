"""One console on the broker of a bad night, and one browser, for all tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from environment.testkit import night
from environment.testkit.browser import Browser
from environment.testkit.console import Console, serving


@pytest.fixture(scope="module")
def served(module_database: Any) -> Iterator[Console]:
    """The console of the module's database, which holds the bad night."""
    rows = night.fill(module_database.url)
    with serving(module_database.url, rows) as made:
        yield made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Iterator[Browser]:
    """One browser for the tests of a module; each begins on a page of its own choice."""
    with Browser(program("chromium"), tmp_path_factory.mktemp("browser") / "profile") as made:
        yield made
