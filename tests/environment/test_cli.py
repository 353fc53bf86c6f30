"""./dev as somebody types it, on a copy of the checkout: real processes, real PostgreSQL, the real worker."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.core.dsn import PostgresDSN
from app.db.checks import schema_head
from environment import client
from environment.client import _await_worker, _psql_address, _psql_program
from environment.commands import COMMANDS
from environment.errors import UserError
from environment.installation import Installation
from environment.kept import KeptCluster
from environment.sources import CHECKOUT
from environment.temporary import TemporaryCluster
from environment.waiting import wait_until
from environment.workerfile import read_worker_file, supervisor, worker_is_ready

pytestmark = pytest.mark.root

Query = Callable[..., list[tuple[Any, ...]]]


class Copy:
    """A copy of the checkout, and ./dev in it (with this Python instead of a .venv)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / ".skeldir"
        self.background: list[subprocess.Popen[str]] = []

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of our ./dev: nothing of this run's database, and no path to its code."""
        ours = ("DATABASE_", "CELERY_", "PYTHONPATH")
        mine = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**mine, "SKELDIR_PYTHON": sys.executable, **more}

    def start(self, *words: str, cwd: str | Path = "/", **environment: str) -> subprocess.Popen[str]:
        """./dev, running."""
        child = subprocess.Popen(
            [self.root / "dev", *words],
            env=self.environment(**environment),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.background.append(child)
        return child

    def dev(self, *words: str, cwd: str | Path = "/", **environment: str) -> tuple[int, str, str]:
        """./dev to its end: status, output, errors."""
        child = self.start(*words, cwd=cwd, **environment)
        output, errors = child.communicate(timeout=120)
        return child.returncode, output, errors

    def worker(self, **environment: str) -> subprocess.Popen[str]:
        """./dev worker, taking tasks."""
        child = self.start("worker", **environment)
        wait_until(lambda: worker_is_ready(self.state) or child.poll() is not None, 60, "./dev worker")
        assert child.poll() is None, child.communicate()
        return child


def copy_checkout(target: Path) -> Path:
    """What git tracks, more or less."""
    target.mkdir()
    for name in ("dev", "pyproject.toml", "alembic.ini"):
        shutil.copy2(CHECKOUT / name, target)
    for name in ("environment", "backend", "packages", "alembic", "requirements"):
        shutil.copytree(CHECKOUT / name, target / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    return target


@pytest.fixture
def copy(folder: Path) -> Iterator[Copy]:
    made = Copy(copy_checkout(folder / "checkout"))
    yield made
    for child in made.background:
        if child.poll() is None:
            child.terminate()
        child.communicate()
    if (cluster := KeptCluster.in_state(made.state)) is not None:
        cluster.shut_down(patience_s=0)


def one_line(errors: str) -> str:
    """The one line that an expected failure is."""
    assert re.fullmatch(r"dev: [^\n]+\n", errors), errors
    return errors.strip()


# -- first a worker's whole life


def test_a_worker_from_the_first_start_to_the_last(copy: Copy, query: Query) -> None:
    first = copy.worker()
    status, output, errors = copy.dev("ping")
    assert status == 0, errors
    assert re.search(r"\(\d+ ms\)$", output.strip())

    status, output, _ = copy.dev("status")
    assert status == 0
    assert f"state       {copy.state}" in output
    assert re.search(r"^postgresql +16\.\d+, pid \d+, socket in ", output, re.MULTILINE)
    assert re.search(r"^database .*skeldir_validation, revision \d+", output, re.MULTILINE)
    assert re.search(r"^worker +pid \d+, http://127.0.0.1:\d+/health: 200 ", output, re.MULTILINE)

    status, _, errors = copy.dev("worker")
    assert status == 1
    assert "already running" in one_line(errors)

    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=90)
    assert first.returncode == 0, errors
    assert errors.count("draining; Ctrl-C again") == 1
    assert nothing_runs(copy)

    second = copy.worker()
    cluster = KeptCluster.in_state(copy.state)
    assert cluster is not None
    assert query(cluster.url(), "SELECT status FROM celery_taskmeta") == [("SUCCESS",)]
    status, output, _ = copy.dev("down")
    assert status == 0
    assert re.match(r"worker +drained and stopped \(pid \d+\)\npostgresql +stopped\n", output)
    second.communicate(timeout=90)
    assert second.returncode == 0
    assert nothing_runs(copy)
    assert copy.dev("down")[:2] == (0, "worker      none\npostgresql  was not running\n")


def nothing_runs(copy: Copy) -> bool:
    cluster = KeptCluster.in_state(copy.state)
    return (
        (cluster is None or cluster.pid() is None)
        and read_worker_file(copy.state / "worker.json") is None
        and supervisor(copy.state) is None
    )


def test_a_killed_dev_takes_its_worker_along_and_the_next_command_finds_its_way(copy: Copy) -> None:
    killed = copy.worker()
    killed.kill()
    killed.communicate()
    wait_until(lambda: read_worker_file(copy.state / "worker.json") is None, 30, "the worker to drain")
    assert copy.dev("psql", "--no-psqlrc", "-Atc", "SELECT count(*) FROM alembic_version")[:2] == (0, "1\n")
    assert nothing_runs(copy)


def test_a_postgresql_that_is_killed_under_a_worker_comes_back(copy: Copy) -> None:
    worker = copy.worker()
    cluster = KeptCluster.in_state(copy.state)
    assert cluster is not None
    cluster.kill()
    wait_until(cluster.pid, 30, "PostgreSQL to be started again")
    wait_until(lambda: worker_is_ready(copy.state), 60, "the worker to go on")
    status, _, errors = copy.dev("ping")
    assert status == 0, errors
    cluster.kill()
    worker.terminate()
    _, errors = worker.communicate(timeout=90)
    assert worker.returncode == 0, errors
    assert "dev: PostgreSQL had ended and was restarted\n" in errors
    assert nothing_runs(copy)


def test_two_checkouts_do_not_disturb_each_other(copy: Copy, folder: Path) -> None:
    other = Copy(copy_checkout(folder / "other"))
    server = ("psql", "--no-psqlrc", "-Atc", "SELECT pg_postmaster_start_time()")
    both = [copy.start(*server), other.start(*server)]
    answers = {child.communicate(timeout=120)[0] for child in both}
    assert len(answers) == 2
    assert nothing_runs(copy)
    assert nothing_runs(other)


def test_a_worker_waits_for_a_database_that_comes_later(copy: Copy, private_cluster: TemporaryCluster) -> None:
    private_cluster.stop()
    worker = copy.start("worker", DATABASE_URL=private_cluster.tcp_url())
    assert worker.stderr is not None
    line = worker.stderr.readline()
    assert re.match(
        r"dev: cannot reach the database 127\.0\.0\.1:\d+/skeldir_validation: .*; next try in 0\.5 s$", line
    )
    private_cluster.start()
    wait_until(lambda: worker_is_ready(copy.state), 60, "the worker")
    worker.terminate()
    worker.communicate(timeout=90)
    assert worker.returncode == 0
    assert not (copy.state / "postgres").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_a_script_put_into_the_background_ends_when_told(copy: Copy, number: int) -> None:
    """Its shell had it ignore INT.  Here it still waits for its database; later it has handlers of its own."""
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", copy.root / "dev", "worker"]
    environ = copy.environment(DATABASE_URL="postgresql://u@127.0.0.1:1/db")
    with subprocess.Popen(ignoring, env=environ, cwd="/", stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        assert "next try in" in worker.stderr.readline()
        worker.send_signal(number)
        try:
            assert worker.wait(90) == 128 + number
        finally:
            worker.kill()


# -- the other commands


def test_help_names_every_command(copy: Copy) -> None:
    for words in ((), ("help",), ("--help",)):
        status, output, errors = copy.dev(*words)
        assert (status, errors) == (0, "")
        for name, command in COMMANDS.items():
            assert re.search(rf"^  {name} .*{re.escape(command.summary)}$", output, re.MULTILINE)
        assert max(map(len, output.splitlines())) <= 100


def test_help_of_one_command_starts_nothing(copy: Copy) -> None:
    assert copy.dev("worker", "--help")[:2] == (
        0,
        "usage: ./dev worker [celery worker options]\nset up, migrate, run the worker\n",
    )
    assert not copy.state.exists()


def test_run_gives_a_command_the_database_and_passes_its_status_on(copy: Copy, database: Any) -> None:
    script = 'echo "$DATABASE_URL"; exit 7'
    assert copy.dev("run", "--", "sh", "-c", script, DATABASE_URL=database.url) == (7, f"{database.url}\n", "")
    status, output, _ = copy.dev("run", "--", "sh", "-c", "echo $DATABASE_URL; kill -TERM $$")
    assert (status, nothing_runs(copy)) == (128 + signal.SIGTERM, True)
    assert output.startswith("postgresql://app_user@/skeldir_validation?host=/")


def test_the_dotenv_file_counts_where_the_environment_says_nothing(copy: Copy, database: Any) -> None:
    (copy.root / ".env").write_text(f'DATABASE_URL="{database.url}"\n')
    for environment in ({}, {"DATABASE_URL": ""}):
        assert copy.dev("run", "--", "sh", "-c", "echo $DATABASE_URL", **environment)[1].strip() == database.url
    assert copy.dev("run", "--", "sh", "-c", "echo $DATABASE_URL", DATABASE_URL="postgresql://a@b/c")[1] == (
        "postgresql://a@b/c\n"
    )


def test_status_and_down_start_nothing(copy: Copy) -> None:
    assert copy.dev("status")[:2] == (
        0,
        f"state       {copy.state}\npostgresql  not created yet\n"
        "database    unknown while PostgreSQL is stopped\nworker      none\n",
    )
    assert copy.dev("down")[:2] == (0, "worker      none\npostgresql  not created yet\n")
    assert not copy.state.exists()


def test_psql_gets_the_whole_address_and_no_secret_as_an_argument() -> None:
    url = "postgresql+asyncpg://u:p%40ss@h1:1,h2:2/db?ssl=require&application_name=x&ssl_min_protocol_version=TLSv1.2"
    variables = {
        "PGHOST": "h1,h2",
        "PGPORT": "1,2",
        "PGUSER": "u",
        "PGPASSWORD": "p@ss",
        "PGDATABASE": "db",
        "PGSSLMODE": "require",
        "PGAPPNAME": "x",
        "PGSSLMINPROTOCOLVERSION": "TLSv1.2",
    }
    assert _psql_address(url) == (variables, [])
    assert _psql_address(f"{url}&keepalives=1") == (variables, ["--dbname", "keepalives=1"])
    with pytest.raises(UserError, match="cannot take sslpassword"):
        _psql_address(f"{url}&sslpassword=s3cret")


def test_a_server_that_is_not_ours_gets_the_machines_psql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = tmp_path / "theirs" / "psql", tmp_path / "ours" / "psql"
    for program in (theirs, ours):
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(theirs.parent))
    # Wherever ours comes from, a wheel, Nix or Debian, it need not be on PATH.
    monkeypatch.setattr(client, "find_installation", lambda: Installation(ours.parent, "16.1", 16, "somewhere"))
    assert _psql_program(ours=False) == str(theirs)
    assert _psql_program(ours=True) == str(ours)
    theirs.unlink()
    assert _psql_program(ours=False) == _psql_program(ours=True) == str(ours)


def test_psql_takes_parameters_without_a_variable(copy: Copy, database: Any) -> None:
    url = f"{database.url}{'&' if '?' in database.url else '?'}keepalives=1&keepalives_idle=7"
    words = ("psql", "--no-psqlrc", "-Atc", "SELECT current_database()")
    assert copy.dev(*words, DATABASE_URL=url) == (0, f"{database.name}\n", "")


def test_a_reader_who_leaves_is_no_error(copy: Copy) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [copy.root / "dev", "status"]
    done = subprocess.run(command, env=copy.environment(), cwd="/", stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


# -- bad input: one line, status 1, nothing half-started


@pytest.mark.parametrize("command", ["worker", "migrate", "ping", "psql"])
def test_a_url_that_is_not_postgresql(copy: Copy, command: str) -> None:
    status, output, errors = copy.dev(command, DATABASE_URL="redis://:s3cret@somewhere/0")
    assert (status, output) == (1, "")
    assert "must be a PostgreSQL URL" in one_line(errors)
    assert "s3cret" not in errors
    assert not (copy.state / "postgres").exists()


def test_an_unreachable_database(copy: Copy) -> None:
    url = "postgresql://u:s3cret@127.0.0.1:1/db"
    for command in ("migrate", "ping"):
        status, _, errors = copy.dev(command, DATABASE_URL=url)
        assert status == 1
        assert "127.0.0.1:1/db" in one_line(errors)
        assert "s3cret" not in errors


def test_a_database_without_tables(copy: Copy, private_cluster: TemporaryCluster) -> None:
    status, _, errors = copy.dev("ping", "--wait", "1", DATABASE_URL=private_cluster.url())
    assert status == 1
    assert "./dev migrate" in one_line(errors)


def test_a_role_that_may_not_read_the_tables(copy: Copy, database: Any, query: Query) -> None:
    if database.superuser_url is None:
        pytest.skip("makes a role, on our own server only")
    role = f"reader_{database.name}"
    query(database.superuser_url, f'CREATE ROLE "{role}" LOGIN')
    try:
        url = replace(PostgresDSN.parse(database.url), user=role).url()
        said = f"{role} may not read alembic_version in "
        status, _, errors = copy.dev("ping", "--wait", "5", DATABASE_URL=url)
        assert (status, said in one_line(errors)) == (1, True)
        status, output, errors = copy.dev("status", DATABASE_URL=url)
        assert (status, errors) == (0, "")
        assert f"database    {said}" in output
    finally:
        query(database.superuser_url, f'DROP ROLE "{role}"')


def test_a_search_path_without_the_tables(copy: Copy, database: Any) -> None:
    """The migrations are in public, wherever the search_path leads."""
    url = PostgresDSN.parse(database.url)
    url = replace(url, parameters=(*url.parameters, ("options", "-csearch_path=nowhere")))
    status, _, errors = copy.dev("migrate", DATABASE_URL=url.url())
    assert (status, one_line(errors)) == (0, f"dev: {url.describe()} is at revision {schema_head()}")
    status, _, errors = copy.dev("ping", "--wait", "2", DATABASE_URL=url.url())
    assert (status, "not on the search_path" in one_line(errors)) == (1, True)


def test_an_unknown_revision(copy: Copy, database: Any) -> None:
    status, _, errors = copy.dev("migrate", "nonsense", DATABASE_URL=database.url)
    assert status == 1
    assert "nonsense" in one_line(errors)


def test_a_metrics_port_in_use(copy: Copy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, errors = copy.dev("worker", CELERY_METRICS_PORT=str(port))
    assert status == 1
    assert f"CELERY_METRICS_PORT {port} on 127.0.0.1 is in use" in one_line(errors)
    assert not (copy.state / "postgres").exists()


@pytest.mark.parametrize("port", [{}, {"CELERY_METRICS_PORT": "9999"}])
def test_a_metrics_address_of_another_machine(copy: Copy, port: dict[str, str]) -> None:
    status, _, errors = copy.dev("worker", CELERY_METRICS_ADDR="192.0.2.1", **port)
    assert status == 1
    assert "cannot listen on CELERY_METRICS_ADDR 192.0.2.1, port 9" in one_line(errors)
    assert "annot assign requested address" in errors
    assert not (copy.state / "postgres").exists()


def test_a_metrics_port_that_is_none(copy: Copy) -> None:
    status, _, errors = copy.dev("worker", CELERY_METRICS_PORT="http")
    assert status == 1
    assert "CELERY_METRICS_PORT must be a number" in one_line(errors)


def test_a_checkout_that_cannot_be_written(copy: Copy) -> None:
    copy.state.touch()  # root may write everywhere, but not make a folder where a file is
    status, _, errors = copy.dev("worker")
    assert status == 1
    assert "set SKELDIR_STATE_DIR to a folder that you can write to" in one_line(errors)
    copy.state.unlink()


def test_initdb_missing(copy: Copy, tmp_path: Path) -> None:
    status, _, errors = copy.dev("worker", SKELDIR_POSTGRES_BIN=str(tmp_path))
    assert status == 1
    assert "initdb, pg_ctl, postgres missing" in one_line(errors)
    assert list(copy.state.glob("postgres*")) == []


def test_an_unknown_command(copy: Copy) -> None:
    assert copy.dev("wrker") == (2, "", "dev: no command 'wrker'; ./dev help shows them\n")


def test_no_worker_to_ping(copy: Copy, database: Any) -> None:
    status, _, errors = copy.dev("ping", "--wait", "0.1")
    assert (status, one_line(errors)) == (
        1,
        "dev: no worker of this checkout is ready after 0.1 s; ./dev worker starts one",
    )
    status, _, errors = copy.dev("ping", "--wait", "1", DATABASE_URL=database.url)
    assert status == 1
    assert "no worker answered" in one_line(errors)


def test_ping_says_that_the_database_takes_no_writes(
    copy: Copy, private_cluster: TemporaryCluster, query: Query
) -> None:
    """Whether it sends the task itself to find out, or a worker of this checkout has."""
    url = private_cluster.url()
    worker = copy.worker(DATABASE_URL=url, HEALTH_INTERVAL="0.2")
    superuser_url, name = private_cluster.superuser_url, "skeldir_validation"
    query(superuser_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    query(superuser_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
    wait_until(lambda: not worker_is_ready(copy.state), 30, "the worker to see it")
    status, _, errors = copy.dev("ping", "--wait", "2", DATABASE_URL=url)
    assert (status, "takes no writes: default_transaction_read_only is on" in one_line(errors)) == (1, True)
    worker.terminate()
    worker.communicate(timeout=120)
    status, _, errors = copy.dev("ping", "--wait", "2", DATABASE_URL=url)
    assert status == 1
    assert "cannot send a task through" in one_line(errors)
    assert "in a read-only transaction" in errors


def test_ping_waits_for_the_last_of_the_migrations(copy: Copy, private_cluster: TemporaryCluster, query: Query) -> None:
    """A worker that starts commits each one for itself, and a task cannot be sent through half of the tables."""
    url = private_cluster.url()

    def ping() -> str:
        status, _, errors = copy.dev("ping", "--wait", "1", DATABASE_URL=url)
        assert status == 1
        return one_line(errors)

    assert "is at revision none after 1 s; ./dev migrate brings it" in ping()
    assert copy.dev("migrate", "+3", DATABASE_URL=url)[0] == 0
    ((revision,),) = query(url, "SELECT version_num FROM alembic_version")
    assert f"is at revision {revision} after 1 s; ./dev migrate brings it" in ping()
    assert copy.dev("migrate", DATABASE_URL=url)[0] == 0
    assert "no worker answered" in ping()
    query(url, "UPDATE alembic_version SET version_num = %s", "of_a_later_release")
    assert "no worker answered" in ping()


def test_ping_gives_up_early_unless_a_worker_is_being_started(copy: Copy, private_cluster: TemporaryCluster) -> None:
    copy.state.mkdir()
    with pytest.raises(UserError, match=r"none was being started for 0\.1 s; \./dev worker starts one"):
        _await_worker(copy.state, 200, patience_s=0.1)
    private_cluster.stop()
    worker = copy.start("worker", DATABASE_URL=private_cluster.tcp_url())
    wait_until(lambda: supervisor(copy.state) or worker.poll() is not None, 60, "./dev worker to try")
    with pytest.raises(UserError, match=r"is ready after 1 s; \./dev worker starts one"):
        _await_worker(copy.state, 1, patience_s=0.1)
    worker.terminate()
    worker.communicate(timeout=90)


def test_tests_run_on_one_server(copy: Copy) -> None:
    status, _, errors = copy.dev("test", "--postgres", "18", DATABASE_URL="postgresql://a@b/c")
    assert status == 1
    assert "contradict" in one_line(errors)


# -- wherever it is called from


def test_the_working_directory_brings_no_code(copy: Copy, tmp_path: Path) -> None:
    """Neither another checkout's, nor an app of somebody else's, in ./dev or in the worker."""
    for name in ("app", "environment", "alembic", "celery", "statistics"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} of the working directory')\n")
    worker = copy.start("worker", cwd=tmp_path)
    wait_until(lambda: worker_is_ready(copy.state) or worker.poll() is not None, 60, "./dev worker")
    assert worker.poll() is None, worker.communicate()
    (tmp_path / "dev").symlink_to(os.path.relpath(copy.root / "dev", tmp_path))
    (tmp_path / "again").symlink_to("dev")
    done = subprocess.run(
        [tmp_path / "again", "ping"], env=copy.environment(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert copy.dev("down", cwd=tmp_path)[1].startswith("worker      drained and stopped")
    assert worker.wait(90) == 0


def test_the_working_directory_is_still_searched_last(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("print('here', flush=True)\n")
    worker = copy.start("worker", "-I", "here", cwd=tmp_path)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "here\n"
    worker.terminate()
    worker.communicate(timeout=120)
