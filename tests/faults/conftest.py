"""The fault suite: ``./dev test --faults``, or with ``--quick`` what CI runs.

Options (see ``environment/testkit/fixtures.py``): ``--quick``; ``--soak`` for the soak too; ``--out FOLDER`` writes
``faults.json`` and ``faults.md``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import celery_postgres
from environment.installation import DEFAULT_MAJOR
from environment.temporary import TemporaryCluster
from environment.testkit import servers
from environment.testkit.journal_app import QUEUE
from environment.testkit.tables import dead_letters, rows_of, scalar
from environment.waiting import wait_until
from tests.faults.load import RECOVERY_S, Load, Outcome
from tests.faults.report import Report

_report_key = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_report_key] = Report("quick" if config.getoption("--quick") else "long")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as a fault test, and those that need root as root's."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
            if "root" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.root)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table; with ``--out`` write it too."""
    report = config.stash[_report_key]
    if report.outcomes:
        terminalreporter.section("faults")
        terminalreporter.write_line(report.markdown())
        if (folder := config.getoption("--out")) is not None:
            report.write(folder)


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether the suite runs with ``--quick``."""
    return bool(pytestconfig.getoption("--quick"))


@pytest.fixture(scope="session")
def peers_python(quick: bool) -> str:
    """The Python of the benchmarks, which has the packages of the other systems."""
    if quick:
        pytest.skip("other systems are compared without --quick only")
    return os.environ["SKELDIR_PEERS_PYTHON"]


@pytest.fixture
def cluster() -> Iterator[TemporaryCluster]:
    """A PostgreSQL for one test, as durable as in production, with the tables of the package."""
    with servers.postgres(DEFAULT_MAJOR) as cluster:
        celery_postgres.create_schema(cluster.url())
        yield cluster


@pytest.fixture(scope="session")
def root() -> None:
    """Skips unless root runs the tests: other hosts and file systems need it."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces and mounts need root (.ci/run runs these as root)")


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Callable[[Outcome], None]:
    """``record(outcome)`` adds an outcome to the table."""
    return pytestconfig.stash[_report_key].add


@pytest.fixture
def verify(record: Callable[[Outcome], None], cluster: TemporaryCluster) -> Callable[..., Outcome]:
    """``verify(outcome, url=None, may_lose=0)`` adds an outcome of this project to the table, and fails unless every
    task was done and acknowledged and has its result, and none became a dead letter.

    ``url`` names the database where it has moved; ``may_lose`` is how many tasks the server itself may have lost.
    """

    def verify(outcome: Outcome, url: str | None = None, may_lose: int = 0) -> Outcome:
        record(outcome)
        assert_settled(outcome, url or cluster.url(), may_lose)
        return outcome

    return verify


def assert_settled(outcome: Outcome, url: str, may_lose: int = 0) -> None:
    """Fail unless every task was done and acknowledged and has its result, and none became a dead letter."""
    assert outcome.lost <= may_lose
    wait_until(lambda: rows_of(url, QUEUE) == 0, RECOVERY_S, "every message to be acknowledged", 0.2)
    assert dead_letters(url) == 0
    stored = scalar(url, "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'")
    assert stored >= outcome.tasks_out - may_lose


@pytest.fixture
def load(cluster: TemporaryCluster) -> Iterator[Load]:
    """A load on ``cluster``, over TCP."""
    with Load(broker_variables(cluster.tcp_url())) as load:
        yield load


def broker_variables(url: str) -> dict[str, str]:
    """The environment in which ``journal_app`` uses the broker and the result backend at a URL."""
    return {"BENCH_INSTALL": "1", "BENCH_BROKER": f"sqla+{url}", "BENCH_BACKEND": f"db+{url}"}
