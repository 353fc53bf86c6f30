"""Web processes for the tests of the HTTP front."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.front import Front

_running: list[Front] = []


@pytest.fixture(scope="module")
def front(module_database: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A web process on the module's database, which the tests of a module share."""
    yield from _started(Front(module_database.url, tmp_path_factory.mktemp("front"), {"WEB_HEARTBEAT": "0.3"}))


@pytest.fixture
def make_front(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """``make_front(url, NAME="value")``: one for a single test."""
    made: list[Front] = []

    def make(url: str, **environment: str) -> Front:
        folder = tmp_path / f"front-{len(made)}"
        folder.mkdir()
        made.append(Front(url, folder, environment))
        _running.append(made[-1])
        return made[-1].start()

    yield make
    for one in made:
        _running.remove(one)
        one.close()


def _started(front: Front) -> Iterator[Front]:
    _running.append(front)
    try:
        yield front.start()
    finally:
        _running.remove(front)
        front.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """Attach the end of the web processes' logs to a failure."""
    report = yield
    if report.failed:
        for front in _running:
            report.sections.append(("log of the web process", "\n".join(front.log_text().splitlines()[-40:])))
    return report
