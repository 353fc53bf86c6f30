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
from benchmarks import servers
from benchmarks.program import QUEUE
from environment.installation import DEFAULT_MAJOR
from environment.temporary import TemporaryCluster
from environment.testkit.tables import dead_letters, rows_of, scalar
from environment.waiting import wait_until
from tests.faults.field import RECOVERY_S, Field, Outcome
from tests.faults.report import Report

_report_key = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_report_key] = Report("quick" if config.getoption("--quick") else "long")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder is the fault suite; what asks for root is root's."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
            if "root" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.root)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table, and write it."""
    report = config.stash[_report_key]
    if report.outcomes:
        terminalreporter.section("faults")
        terminalreporter.write_line(report.markdown())
        if (folder := config.getoption("--out")) is not None:
            report.write(folder)


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    """Whether this is the short form."""
    return bool(pytestconfig.getoption("--quick"))


@pytest.fixture(scope="session")
def peers_python(quick: bool) -> str:
    """A Python that has the packages of the benchmarks."""
    if quick:
        pytest.skip("the peers are compared in the long form only")
    return os.environ["SKELDIR_PEERS_PYTHON"]


@pytest.fixture
def cluster() -> Iterator[TemporaryCluster]:
    """A PostgreSQL for one test, as durable as in production, with the broker's tables."""
    with servers.postgres(DEFAULT_MAJOR) as cluster:
        celery_postgres.create_schema(cluster.url())
        yield cluster


@pytest.fixture(scope="session")
def root() -> None:
    """For what root alone may do: other hosts, other file systems."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces and mounts need root (.ci/run runs these as root)")


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Callable[[Outcome], None]:
    """Put an outcome into the table."""
    return pytestconfig.stash[_report_key].add


@pytest.fixture
def judge(record: Callable[[Outcome], None], cluster: TemporaryCluster) -> Callable[..., Outcome]:
    """Put an outcome of ours into the table.  Nothing may be lost: every task is done, acknowledged and has its result,
    and nothing was set aside.

    Parameters of what it returns:
        url: names the database if it is another one by now.
        may_lose: how many tasks the server itself may have forgotten.
    """

    def judge(outcome: Outcome, url: str | None = None, may_lose: int = 0) -> Outcome:
        where = url or cluster.url()
        record(outcome)
        assert outcome.lost <= may_lose
        wait_until(lambda: rows_of(where, QUEUE) == 0, RECOVERY_S, "every message to be acknowledged", 0.2)
        assert dead_letters(where) == 0
        stored = scalar(where, "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'")
        assert stored >= outcome.tasks_out - may_lose
        return outcome

    return judge


@pytest.fixture
def field(cluster: TemporaryCluster) -> Iterator[Field]:
    """A field on that PostgreSQL; it is reached over TCP."""
    with Field(reach(cluster.tcp_url())) as field:
        yield field


def reach(url: str) -> dict[str, str]:
    """What ``benchmarks.program`` needs to reach our broker and our results at a URL."""
    return {"BENCH_INSTALL": "1", "BENCH_BROKER": f"sqla+{url}", "BENCH_BACKEND": f"db+{url}"}
