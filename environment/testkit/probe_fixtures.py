"""A pytest plugin: databases, workers and clients of the probe program, for every folder that is about programs.

Fixtures: ``installed``, ``plain_database``, ``pool``, ``make_probe``, ``probe``, ``proxy``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery.app.backends
import kombu.transport
import pytest

import celery_postgres
from environment.testkit.probe import POOLS, Probe
from environment.testkit.proxy import Proxy


@pytest.fixture(scope="module")
def installed() -> Iterator[None]:
    """Call ``install()``; restores the aliases of Kombu and Celery for the other suites of the run."""
    aliases = [kombu.transport.TRANSPORT_ALIASES, celery.app.backends.BACKEND_ALIASES]
    before = [dict(names) for names in aliases]
    celery_postgres.install()
    yield
    for names, old in zip(aliases, before, strict=True):
        names.clear()
        names.update(old)
    kombu.transport._transport_cache.clear()


@pytest.fixture(scope="session")
def plain_template(make_template: Callable[[str, Callable[[str], None]], str]) -> str:
    """The name of a database with what ``celery_postgres.create_schema`` makes: what any Celery project has."""

    def fill(url: str) -> None:
        celery_postgres.create_schema(url)

    return make_template("plain", fill)


@pytest.fixture
def plain_database(fresh: Any, plain_template: str) -> Iterator[Any]:
    """A database that no migration of ours has seen, made with ``create_schema``."""
    with fresh(plain_template) as database:
        yield database


# -- workers of the probe program

_probes: list[Probe] = []


@pytest.fixture(scope="session", params=POOLS)
def pool(
    request: pytest.FixtureRequest, fresh: Any, plain_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Probe]:
    """A worker of each pool in turn, on a database of its own, that many tests share.

    ``pool.worker`` is the worker, ``pool.name`` the pool.  It consumes the queue ``celery`` and sends events.
    """
    with fresh(plain_template) as database:
        probe = Probe(database.url, tmp_path_factory.mktemp(request.param))
        _probes.append(probe)
        try:
            probe.worker = probe.start(pool=request.param, args=["-E"])
            probe.name = request.param
            yield probe
        finally:
            _probes.remove(probe)
            probe.close()


@pytest.fixture
def make_probe(tmp_path: Path) -> Iterator[Callable[..., Probe]]:
    """``make_probe(url)``: a probe for one test; its workers are stopped afterwards."""
    made: list[Probe] = []

    def make(url: str, **options: Any) -> Probe:
        folder = tmp_path / f"probe-{len(made)}"
        folder.mkdir()
        probe = Probe(url, folder, **options)
        made.append(probe)
        _probes.append(probe)
        return probe

    yield make
    for probe in made:
        _probes.remove(probe)
        probe.close()


@pytest.fixture
def probe(make_probe: Callable[..., Probe], plain_database: Any) -> Probe:
    """A probe without a worker yet, on a database of its own."""
    return make_probe(plain_database.url)


@pytest.fixture
def proxy(server: Any) -> Iterator[Proxy]:
    """A proxy in front of the run's PostgreSQL, over TCP."""
    if server.tcp is None:
        pytest.skip("the server of DATABASE_URL is not ours: where it listens is unknown")
    with Proxy(server.tcp) as proxy:
        yield proxy


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of one pool's worker in one process of pytest-xdist."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("pool") in POOLS:
            item.add_marker(pytest.mark.xdist_group(f"pool-{callspec.params['pool']}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """Attach the end of the workers' logs to a failure."""
    report = yield
    if report.failed:
        for probe in _probes:
            for worker in probe.workers:
                lines = worker.log_text().splitlines()[-60:]
                report.sections.append((f"log of worker {worker.pid}", "\n".join(lines)))
    return report
