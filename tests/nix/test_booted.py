"""The units of the NixOS module under a real systemd, against a real PostgreSQL: with all that they may not do.

`.ci/nix` runs these: they need root, systemd-nspawn, and a stand-in that nix/stand-in/prepare.py has prepared.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT
from environment.testkit.booted import BootedMachine
from environment.waiting import wait_until

pytestmark = pytest.mark.long

STAND_IN = CHECKOUT / "nix/stand-in/machine.json"
#: Where a machine records the Python of its workers.
PYTHON = "/python"
SOCKET = "postgresql:///celery?host=/run/postgresql"
#: The logins of the remote database, as their owner would make them.
LOGINS = """\
CREATE ROLE admin LOGIN PASSWORD 'a' CREATEROLE;
GRANT CREATE ON DATABASE celery TO admin; GRANT ALL ON SCHEMA public TO admin WITH GRANT OPTION;
ALTER DATABASE celery OWNER TO admin;
CREATE ROLE runner LOGIN PASSWORD 'b%@:/ '; CREATE ROLE deploy LOGIN PASSWORD 'c';
"""
PUBLISH = "import sys, mine; print(*[mine.work.delay(float(sys.argv[2])).id for _ in range(int(sys.argv[1]))])"
AWAIT = "import sys, mine; [mine.app.AsyncResult(one).get(timeout=60) for one in sys.argv[1:]]"
PING = """\
import app.celery_app
from app.tasks.housekeeping import ping
print(len([sent.get(timeout=60) for sent in [ping.delay() for _ in range(200)]]))
"""


def boot(name: str, root: Path) -> BootedMachine:
    """A machine of machines.nix, whose launchers are built here."""
    missing = [program for program in ("nix-build", "systemd-nspawn") if shutil.which(program) is None]
    if os.geteuid() != 0 or missing or not STAND_IN.exists():
        reason = f"needs root and a prepared stand-in; missing: {missing}"
        (pytest.fail if os.environ.get("SKELDIR_REQUIRE_NIX") and os.geteuid() == 0 else pytest.skip)(reason)
    options = ["--no-out-link", "--option", "sandbox", "false", "--option", "substitute", "false"]
    command = ["nix-build", *options, str(CHECKOUT / "tests/nix/machines.nix"), "--attr", name]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    described = json.loads(Path(built.stdout.strip()).read_text())
    tools = json.loads(STAND_IN.read_text())
    secrets = {"worker": "runner:b%25%40%3A%2F%20", "migrator": "deploy:c", "admin": "admin:a"}
    return BootedMachine(
        root,
        described["services"],
        Path(tools["postgresql"]["folder"]) / "bin",
        [Path(tools["python"]["folder"]).parent],
        {
            PYTHON: described["python"],
            **{f"/secrets/{name}": f"postgresql+psycopg2://{one}@127.0.0.1/celery\n" for name, one in secrets.items()},
        },
    )


def python(machine: BootedMachine, code: str, *words: str) -> str:
    """What Python prints that runs as the workers' account, with their modules."""
    path = machine.property("celery-beat", "Environment").split("PYTHONPATH=")[1].split()[0]
    executable = machine.run("cat", PYTHON).stdout + "/bin/python"
    variables = [f"PYTHONPATH={path}", f"DATABASE_URL={SOCKET}", "PYTHONDONTWRITEBYTECODE=1"]
    done = machine.run("env", *variables, executable, "-c", code, *words, account="celery", timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def psql(machine: BootedMachine, sql: str) -> str:
    """What a statement of the superuser prints."""
    program = Path(json.loads(STAND_IN.read_text())["postgresql"]["folder"]) / "bin/psql"
    words = ["-h", "/run/postgresql", "-d", "celery", "-tA", "-v", "ON_ERROR_STOP=1", "-c", sql]
    done = machine.run(str(program), *words, account="postgres")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def active(machine: BootedMachine, *names: str) -> None:
    """Wait for units."""
    for name in names:
        wait_until(lambda unit=name: machine.property(unit, "ActiveState") == "active", 60, f"{name} to be active", 0.2)


def ready(machine: BootedMachine, *workers: str) -> None:
    """Wait until workers say that they take tasks."""
    for name in workers:
        unit = f"celery-worker-{name}"
        wait_until(lambda unit=unit: "ready." in machine.log(unit), 60, f"{name} to be ready", 0.2)


@pytest.fixture(scope="class")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedMachine]:
    with boot("local", tmp_path_factory.mktemp("local")) as machine:
        active(machine, "postgresql", "celery-roles", "celery-migrate", "celery-front", "celery-beat")
        ready(machine, "one", "two")
        yield machine


@pytest.fixture(scope="class")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedMachine]:
    with boot("remote", tmp_path_factory.mktemp("remote")) as machine:
        active(machine, "postgresql")
        psql(machine, LOGINS)
        wait_until(lambda: "celery_worker" in psql(machine, "SELECT rolname FROM pg_roles"), 60, "the roles", 0.2)
        psql(machine, "GRANT celery_worker TO runner; GRANT celery_migrator TO deploy")
        psql(machine, "ALTER ROLE deploy SET role = celery_migrator")
        active(machine, "celery-roles", "celery-migrate", "celery-beat")
        # The worker's local login, for what this test publishes.
        psql(machine, "CREATE ROLE celery LOGIN IN ROLE celery_worker")
        ready(machine, "one", "two")
        yield machine


class TestLocal:
    def test_a_local_machine_makes_its_database_and_runs_tasks_with_least_rights(self, local: BootedMachine) -> None:
        assert python(local, PING).split() == ["200"]
        assert psql(local, "SELECT DISTINCT usename FROM pg_stat_activity WHERE usename LIKE 'celery%'") == "celery"
        assert psql(local, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'") == "celery_migrator"
        assert psql(local, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'celery%' AND rolsuper") == "0"

    def test_a_second_start_changes_nothing(self, local: BootedMachine) -> None:
        for unit in ("celery-roles", "celery-migrate"):
            assert local.run("systemctl", "restart", unit).returncode == 0, local.log(unit)

    @pytest.mark.parametrize("unit", ["celery-worker-one", "celery-beat", "celery-front", "celery-migrate"])
    def test_systemd_rates_each_unit_as_little_exposed(self, local: BootedMachine, unit: str) -> None:
        rated = local.run("systemd-analyze", "security", "--no-pager", "--threshold=15", f"{unit}.service")
        assert rated.returncode == 0, rated.stdout


class TestRemote:
    def test_a_killed_worker_loses_no_task(self, remote: BootedMachine) -> None:
        restarts = int(remote.property("celery-worker-one", "NRestarts"))  # it may have come before the roles
        tasks = python(remote, PUBLISH, "60", "1").split()
        claimed = "SELECT count(*) FROM kombu_message WHERE consumer_id IS NOT NULL"
        wait_until(lambda: int(psql(remote, claimed)) >= 2, 30, "claims", 0.1)
        assert remote.run("systemctl", "kill", "--signal", "KILL", "celery-worker-one").returncode == 0
        python(remote, AWAIT, *tasks)
        wait_until(lambda: int(remote.property("celery-worker-one", "NRestarts")) > restarts, 30, "the restart", 0.2)

    def test_a_stop_lets_a_running_task_end(self, remote: BootedMachine) -> None:
        assert remote.run("systemctl", "stop", "celery-worker-one").returncode == 0
        assert remote.property("celery-worker-one", "Result") == "success", remote.log("celery-worker-one")
        (task,) = python(remote, PUBLISH, "1", "3").split()
        claimed = f"SELECT count(*) FROM kombu_message WHERE task_id = '{task}' AND consumer_id IS NOT NULL"  # noqa: S608
        wait_until(lambda: psql(remote, claimed) == "1", 30, "the claim", 0.1)
        assert remote.run("systemctl", "stop", "celery-worker-two").returncode == 0
        assert remote.property("celery-worker-two", "Result") == "success"
        assert psql(remote, f"SELECT status FROM celery_taskmeta WHERE task_id = '{task}'") == "SUCCESS"  # noqa: S608

    def test_no_password_is_in_a_unit_or_a_log(self, remote: BootedMachine) -> None:
        shown: Any = remote.run("systemctl", "show", "celery-worker-one", "celery-migrate").stdout
        assert "runner:b" not in shown
        assert "runner:b" not in remote.run("journalctl", "--no-pager").stdout
        assert remote.run("cat", "/secrets/worker", account="celery").returncode != 0
