"""What every suite stands on: one PostgreSQL per run, a migrated database per test, real workers.

Without DATABASE_URL in the environment (a .env file does not count: it may name a database that matters) the
run has a temporary PostgreSQL of its own; SKELDIR_POSTGRES_MAJOR, which ``./dev test --postgres`` sets, names
its major.  With DATABASE_URL the run uses that server, and leaves nothing on it.  The server is started by the
process that the person started and handed to the processes of pytest-xdist.

Fixtures: ``server``, ``database`` and ``module_database``, ``start_worker`` and ``start_module_worker``,
``foundation_worker``, ``private_cluster``, ``program``, ``wait_until``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg2
import psycopg2.errors
import pytest
from hypothesis import settings

from app.core.dsn import PostgresDSN
from environment.checkout import locate_state
from environment.cluster import APP_ROLE, INITIALISED, Cluster
from environment.errors import UserError
from environment.installation import DEFAULT_MAJOR
from environment.sources import CHECKOUT, INSTALLED_PACKAGE
from environment.temporary import TemporaryCluster
from environment.testkit.machine import uninstalled
from environment.waiting import wait_until as _wait_until
from environment.worker import WorkerProcess
from environment.workerfile import WORKER_FILE, read_worker_file

# How long an example takes is no matter of a test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# -- options


def pytest_addoption(parser: pytest.Parser) -> None:
    """All options of all suites: pytest parses them before it has seen any conftest.py but this one, and those on the
    way to what is named in the command."""
    group = parser.getgroup("faults")
    group.addoption("--quick", action="store_true", help="fewer rounds, and no peers")
    group.addoption("--soak", action="store_true", help="the soak as well: 25 minutes, a kill every 40 seconds")
    group.addoption("--out", type=Path, help="write faults.json and faults.md into this folder")


# -- one server per run


@dataclasses.dataclass(frozen=True)
class Server:
    """The PostgreSQL of this run.

    Attributes:
        admin_url: a role that may create databases (``app_user`` on our own server, else DATABASE_URL's).
        superuser_url: the superuser, or None on a server that is not ours.
        tcp: host and port where it asks for passwords, or None on a server that is not ours.
        password: what it asks the application's role for.
    """

    admin_url: str
    superuser_url: str | None
    tcp: tuple[str, int] | None
    password: str | None = None

    def database(self, name: str) -> Database:
        """How to reach one of its databases."""
        tcp_url = None
        if self.tcp is not None:
            tcp_url = f"postgresql://{APP_ROLE}:{self.password}@{self.tcp[0]}:{self.tcp[1]}/{name}"
        superuser_url = None if self.superuser_url is None else _in_database(self.superuser_url, name)
        return Database(name, _in_database(self.admin_url, name), superuser_url, tcp_url)


@dataclasses.dataclass(frozen=True)
class Database:
    """One database.

    Attributes:
        url: as the application's role, which owns it.
        superuser_url: as the superuser, or None on a server that is not ours.
        tcp_url: as the application's role over TCP with its password, or None on a server that is not ours.
    """

    name: str
    url: str
    superuser_url: str | None
    tcp_url: str | None


_server_key = pytest.StashKey[Server]()
_foreign_key = pytest.StashKey[bool]()
_run_key = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Have a server before anything imports the application, whose Celery app needs DATABASE_URL."""
    # Registered here too, so that -p no:xdist works with --strict-markers.
    config.addinivalue_line("markers", "xdist_group(name): tests that share one process")
    _assert_installed_package()
    handed = getattr(config, "workerinput", None)
    if handed is not None:
        given = handed["skeldir_server"]
        tcp = given["tcp"]
        config.stash[_server_key] = Server(**{**given, "tcp": tcp and (tcp[0], tcp[1])})
        config.stash[_foreign_key] = handed["skeldir_foreign"]
        config.stash[_run_key] = handed["skeldir_run"]
        return
    config.stash[_run_key] = f"skeldir_test_{secrets.token_hex(4)}"
    url = os.environ.get("DATABASE_URL")
    config.stash[_foreign_key] = bool(url)
    if url:
        config.stash[_server_key] = Server(url, None, None)
        config.add_cleanup(lambda: _drop_templates(config.stash[_server_key], config.stash[_run_key]))
        return
    # TERM ends a run as Ctrl-C does: with everything cleaned up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cluster = TemporaryCluster(int(os.environ.get("SKELDIR_POSTGRES_MAJOR", DEFAULT_MAJOR)), tcp=True)
        # All processes of a test run share it, and sixteen publishers of one test have two connections each.
        cluster.options = {**cluster.options, "max_connections": "300"}
        config.add_cleanup(cluster.close)
        _keep_initialized(cluster)
        cluster.__enter__()
    except UserError as error:
        raise pytest.UsageError(str(error)) from None
    os.environ["DATABASE_URL"] = cluster.url()
    tcp = ("127.0.0.1", cluster.port)
    config.stash[_server_key] = Server(cluster.url(), cluster.superuser_url, tcp, cluster.password)


def _assert_installed_package() -> None:
    """Refuse to test the package of this checkout where the installed one is meant."""
    import celery_postgres

    if os.environ.get(INSTALLED_PACKAGE) and "site-packages" not in Path(celery_postgres.__file__).parts:
        raise pytest.UsageError(f"{INSTALLED_PACKAGE} is set, and celery_postgres is {celery_postgres.__file__}")


def _keep_initialized(cluster: Cluster) -> None:
    """Run ``initdb`` once, for all clusters of this run."""
    folder = cluster.home / "initialized"
    folder.mkdir()
    if not cluster.account.is_current:
        os.chown(folder, cluster.account.uid, cluster.account.gid)
    first = Cluster(cluster.installation, cluster.account, folder)
    first.initialize(sync=False)
    first.data.rename(folder / f"{cluster.installation.origin}-{cluster.installation.version}")
    os.environ[INITIALISED] = str(folder)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the server to a process of pytest-xdist."""
    node.workerinput["skeldir_server"] = dataclasses.asdict(node.config.stash[_server_key])
    node.workerinput["skeldir_foreign"] = node.config.stash[_foreign_key]
    node.workerinput["skeldir_run"] = node.config.stash[_run_key]


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    """The PostgreSQL of this run.  Shared by all tests: who stops or crashes one takes ``private_cluster``."""
    return pytestconfig.stash[_server_key]


@pytest.fixture
def private_cluster() -> Iterator[TemporaryCluster]:
    """A PostgreSQL for one test (0.7 s), to stop, restart and crash: ``.url()``, ``.stop()``, ``.kill()`` …

    It listens on 127.0.0.1 too and has an empty database for ``app_user``; ``migrate(url)`` fills it.
    """
    with TemporaryCluster(int(os.environ.get("SKELDIR_POSTGRES_MAJOR", DEFAULT_MAJOR)), tcp=True) as cluster:
        yield cluster


@pytest.fixture
def durable_cluster(private_cluster: TemporaryCluster) -> TemporaryCluster:
    """The same with the package's tables in it. It keeps what it has confirmed, whatever happens to it."""
    import celery_postgres

    private_cluster.options["synchronous_commit"] = "on"
    private_cluster.restart()
    celery_postgres.create_schema(private_cluster.url())
    return private_cluster


# -- a database per test


@pytest.fixture(scope="session")
def migrate() -> Callable[[str], None]:
    """A function that brings the database at a URL to the newest migration, as ``./dev migrate`` does."""
    return _migrate


def _migrate(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "environment.cli", "migrate"],
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"the migrations failed:\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.fixture(scope="session")
def fresh(server: Server, pytestconfig: pytest.Config) -> Callable[..., AbstractContextManager[Database]]:
    """``with fresh(template)``: a new database that is dropped afterwards, even while sessions are connected.

    It is a copy of the template that ``make_template`` names, or empty.
    """
    run = f"{pytestconfig.stash[_run_key]}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    numbers = itertools.count()

    @contextmanager
    def database(template: str | None = None) -> Iterator[Database]:
        name = f"{run}_{next(numbers)}"
        _create(server, name, template)
        try:
            yield server.database(name)
        finally:
            _drop(server, name)

    return database


@pytest.fixture(scope="session")
def make_template(server: Server, pytestconfig: pytest.Config) -> Callable[[str, Callable[[str], None]], str]:
    """``make_template(word, fill)``: the name of a database that ``fill(url)`` has filled, to make others from.

    The first process of the run that asks makes it, the others wait for it.  A copy takes 0.03 s of the server's time,
    ``create_schema`` on a new database 0.3 s, the migrations 3 s.  Do not connect to it: PostgreSQL copies only idle
    databases.
    """

    def make(word: str, fill: Callable[[str], None]) -> str:
        name = f"{pytestconfig.stash[_run_key]}_{word}"
        half = server.database(f"{name}_half")
        with _connected(server.admin_url) as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtext(%s))", [name])
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", [name])
            if not cursor.rowcount:
                _drop(server, half.name)
                _create(server, half.name, None)
                fill(half.url)
                cursor.execute(f'ALTER DATABASE "{half.name}" RENAME TO "{name}"')
        return name

    return make


@pytest.fixture(scope="session")
def template_database(make_template: Callable[[str, Callable[[str], None]], str]) -> str:
    """The name of a migrated database to make others from.

    Where Alembic is not installed, the package is tested alone: on what ``create_schema`` makes, as any project has.
    """
    if importlib.util.find_spec("alembic.config") is None:
        from celery_postgres import create_schema

        return make_template("plain", create_schema)
    return make_template("migrated", _migrate)


@pytest.fixture
def database(fresh: Callable[..., AbstractContextManager[Database]], template_database: str) -> Iterator[Database]:
    """A migrated, empty database for one test."""
    with fresh(template_database) as made:
        yield made


@pytest.fixture(scope="module")
def module_database(
    fresh: Callable[..., AbstractContextManager[Database]], template_database: str
) -> Iterator[Database]:
    """The same for all tests of a module."""
    with fresh(template_database) as made:
        yield made


def _create(server: Server, name: str, template: str | None) -> None:
    statement = f'CREATE DATABASE "{name}"'
    if template is not None:
        statement += f' TEMPLATE "{template}"'
    try:
        with _connected(server.admin_url) as cursor:
            if cursor.connection.server_version >= 150000:
                # The default writes every page into the log: 0.2 s of the server's time, where a copy takes 0.03 s.
                statement += " STRATEGY file_copy"
            cursor.execute(statement)
    except psycopg2.errors.InsufficientPrivilege:
        role = PostgresDSN.parse(server.admin_url).user
        pytest.fail(
            f"the role {role} of DATABASE_URL may not create databases, and the tests need some: "
            f"ALTER ROLE {role} CREATEDB",
            pytrace=False,
        )


def _drop(server: Server, name: str) -> None:
    # As superuser where there is one: app_user may not end a session of the superuser.
    _execute(server.superuser_url or server.admin_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _drop_templates(server: Server, run: str) -> None:
    with _connected(server.admin_url) as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [run])
        names = [name for (name,) in cursor]
    for name in names:
        _drop(server, name)


def _execute(url: str, statement: str) -> None:
    with _connected(url) as cursor:
        cursor.execute(statement)


@contextmanager
def _connected(url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(PostgresDSN.parse(url).libpq())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def _in_database(url: str, name: str) -> str:
    return dataclasses.replace(PostgresDSN.parse(url), database=name).url()


# -- real workers


class StartWorker(Protocol):
    """What ``start_worker`` gives."""

    def __call__(
        self,
        database_url: str,
        *,
        pool: str = "solo",
        concurrency: int = 1,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        ready: bool = True,
    ) -> WorkerProcess:
        """Start a worker; with ``ready`` return when it takes tasks, else at once."""
        ...


#: Workers whose log belongs into the report of a failing test.
_running: list[WorkerProcess] = []


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """A function that starts real workers for one test.  All are stopped afterwards; when the test fails the
    end of their logs is in its report.
    """
    yield from _starter(tmp_path)


@pytest.fixture(scope="module")
def start_module_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorker]:
    """The same for all tests of a module."""
    yield from _starter(tmp_path_factory.mktemp("workers"))


def _starter(folder: Path) -> Iterator[StartWorker]:
    mine: list[WorkerProcess] = []

    def start(
        database_url: str,
        *,
        pool: str = "solo",
        concurrency: int = 1,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        ready: bool = True,
    ) -> WorkerProcess:
        state = folder / f"worker-{len(mine)}"
        state.mkdir()
        worker = WorkerProcess(
            database_url,
            state=state,
            log=state / "log",
            # A name of its own: two workers of one name take each other's remote control answers.
            arguments=["-P", pool, "-c", str(concurrency), "-n", f"{secrets.token_hex(4)}@test", *args],
            environment=env,
        )
        mine.append(worker)
        _running.append(worker)
        worker.start()
        if ready:
            worker.wait_ready(60)
        return worker

    try:
        yield start
    finally:
        for worker in mine:
            _running.remove(worker)
            worker.stop()


@dataclasses.dataclass(frozen=True)
class FoundationWorker:
    """A running worker and its database.

    Attributes:
        metrics_url: base URL of its HTTP pages; no slash at the end.
    """

    database_url: str
    metrics_url: str


@pytest.fixture(scope="session")
def foundation_worker(
    server: Server, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FoundationWorker]:
    """The worker that was launched for this run: DATABASE_URL is set, and the worker file in the state folder
    names a live worker.  Where there is none, one is started on the run's own database.

    Tests that use it run in one process of pytest-xdist.
    """
    if pytestconfig.stash[_foreign_key]:
        launched = read_worker_file(locate_state() / WORKER_FILE)
        if launched is not None:
            _wait_until(launched.is_ready, 30, "the launched worker to be ready")
            yield FoundationWorker(server.admin_url, launched.metrics_url)
            return
    _migrate(server.admin_url)
    starter = _starter(tmp_path_factory.mktemp("foundation"))
    worker = next(starter)(server.admin_url)
    try:
        yield FoundationWorker(server.admin_url, worker.metrics_url)
    finally:
        starter.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of the foundation worker together."""
    for item in items:
        if "foundation_worker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("foundation"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """Attach the end of the workers' logs to a failure."""
    report = yield
    if report.failed:
        for worker in _running:
            lines = worker.log_text().splitlines()[-100:]
            report.sections.append((f"log of worker {worker.pid}", "\n".join(lines)))
    # Half a surrogate pair in a captured log would end the whole run: pytest-xdist sends reports as UTF-8.
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


# -- the machine


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """The path of a program; skips where it is missing, unless SKELDIR_REQUIRE_PROGRAMS says that it must be there."""

    def find(name: str) -> str:
        found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        if found is None:
            uninstalled(name)
        return found

    return find


# -- time


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], Any], float, str], Any]:
    """``wait_until(predicate, deadline_s, what)``: the first true result, or TimeoutError naming ``what``."""
    return _wait_until
