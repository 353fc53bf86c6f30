"""Databases of servers that have no role called app_user: every migration up and down, and the commands on top."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from celery_postgres import create_schema
from environment.client import provision_server
from environment.installation import DEFAULT_MAJOR
from environment.sources import CHECKOUT, python_path
from environment.temporary import TemporaryCluster
from environment.testkit.databases import engine_of, rows, run, tables
from environment.worker import WorkerProcess

#: A name that SQL folds or ends unless it is quoted, and that a URL and a format string must escape.
AWKWARD = "Some \"Role\" %s: {} 'x'"


@pytest.fixture(scope="module")
def bare_cluster() -> Iterator[TemporaryCluster]:
    """A server of somebody else's: its roles have names of their own."""
    with TemporaryCluster(int(os.environ.get("SKELDIR_POSTGRES_MAJOR", DEFAULT_MAJOR)), tcp=True) as cluster:
        run(cluster.superuser_url, "ALTER ROLE app_user RENAME TO somebody")
        yield cluster


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def of_a_superuser(cluster: TemporaryCluster) -> str:
    """The database server's first role, in a database of its own."""
    run(cluster.superuser_url, "CREATE DATABASE of_a_superuser")
    return cluster.url("postgres", "of_a_superuser")


def of_an_owner(cluster: TemporaryCluster) -> str:
    """A role that owns its database and may nothing else."""
    name = quoted(AWKWARD)
    run(cluster.superuser_url, f"CREATE ROLE {name} LOGIN", f"CREATE DATABASE of_an_owner OWNER {name}")
    return cluster.url(AWKWARD, "of_an_owner")


def of_a_guest(cluster: TemporaryCluster) -> str:
    """A role that may create in a database of somebody else's, as managed servers have it."""
    run(cluster.superuser_url, "CREATE ROLE guest LOGIN", "CREATE DATABASE of_a_guest")
    run(cluster.url("postgres", "of_a_guest"), "GRANT USAGE, CREATE ON SCHEMA public TO guest")
    return cluster.url("guest", "of_a_guest")


def of_a_group(cluster: TemporaryCluster) -> str:
    """A login that works as the group that owns the database."""
    run(
        cluster.superuser_url,
        "CREATE ROLE owners",
        "CREATE ROLE deploy LOGIN IN ROLE owners",
        "ALTER ROLE deploy SET role = owners",
        "CREATE DATABASE of_a_group OWNER owners",
    )
    return cluster.url("deploy", "of_a_group")


def of_provision(cluster: TemporaryCluster) -> str:
    """What ./dev provision makes under another name."""
    url = cluster.tcp_url("Provisioned", "p@ss", "Provisioned-db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKELDIR_SUPERUSER_URL", cluster.superuser_url)
        patch.setenv("DATABASE_URL", url)
        assert provision_server([]) == 0
    return url


WAYS = [of_a_superuser, of_an_owner, of_a_guest, of_a_group, of_provision]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_migration_up_and_down(
    bare_cluster: TemporaryCluster, alembic: Any, way: Callable[[TemporaryCluster], str]
) -> None:
    url = way(bare_cluster)
    assert rows(url, "SELECT FROM pg_roles WHERE rolname = 'app_user'") == []
    revisions = ScriptDirectory.from_config(Config(str(CHECKOUT / "alembic.ini"))).walk_revisions()
    upwards = [revision.revision for revision in revisions][::-1]
    for revision in upwards:
        alembic("upgrade", url, revision)
    made = tables(url)
    assert {"kombu_message", "celery_taskmeta", "customer_event", "api_key"} <= made
    for revision in [*upwards[-2::-1], "base"]:
        alembic("downgrade", url, revision)
    assert tables(url) == set()
    alembic("upgrade", url, "head")
    assert tables(url) == made


def test_the_packages_own_tables_need_no_role_of_a_certain_name(bare_cluster: TemporaryCluster) -> None:
    run(bare_cluster.superuser_url, "CREATE DATABASE of_another_project OWNER somebody")
    create_schema(engine_of(bare_cluster.url("somebody", "of_another_project")))


def test_a_worker_and_a_ping_on_ones_own_server(bare_cluster: TemporaryCluster) -> None:
    """DATABASE_URL names an empty database of a role of its own: two commands, as the README has them."""
    run(
        bare_cluster.superuser_url,
        "CREATE ROLE tenant_app LOGIN PASSWORD 'x'",
        "CREATE DATABASE ones_own OWNER tenant_app",
    )
    state = bare_cluster.home / "state"  # which the account of PostgreSQL can enter, as ./dev wants it
    state.mkdir()
    state.chmod(0o755)
    url = bare_cluster.tcp_url("tenant_app", "x", "ones_own")
    command = (sys.executable, "-P", "-m", "environment.cli")
    variables = {"SKELDIR_STATE_DIR": str(state)}
    worker = WorkerProcess(url, state=state, log=state / "log", command=command, environment=variables)
    variables = {**os.environ, **variables, "DATABASE_URL": url, "PYTHONPATH": python_path()}
    try:
        worker.start()
        ping = [*command, "ping", "--wait", "60"]
        done = subprocess.run(ping, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + worker.log_text()
    finally:
        assert worker.stop() == 0, worker.log_text()
