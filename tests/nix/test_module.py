"""The NixOS module, evaluated with the stand-in's module system; test_booted.py runs the units."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT
from environment.testkit.nix_tree import SYSTEM, Tree
from environment.testkit.nixos_units import unit_text

#: The least that it asks for.
MINIMAL = """
    enable = true;
    app = "mine";
    python = pkgs.python313.withPackages (_: [ ]);
    roles = "/roles.sql";
"""
LOCAL = MINIMAL + "database.createLocally = true;"
WORKERS = """
    workers.mail = { pool = "threads"; concurrency = 8; queues = [ "mail" "news" ]; metricsPort = 9540; };
    workers.reports = {
        longestTask = 3600;
        environment.LANG = "C.UTF-8";
        environmentFiles = [ "/run/reports.env" ];
        extraArguments = [ "--max-tasks-per-child" "100" ];
    };
    beat.enable = true;
    console = {
        enable = true;
        allowedHosts = [ "tasks.example" ];
        trustedProxies = [ "10.0.0.5" ];
        environmentFiles = [ "/run/console.env" ];
    };
    front = { enable = true; command = [ "uvicorn" "mine:asgi" ]; };
"""


class Machine:
    """Evaluates configurations of `services.celery-postgres`."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def expression(self, options: str, wanted: str) -> str:
        stand_in = f'(import {self._tree.root}/nix/stand-in {{ system = "{SYSTEM}"; }})'
        nixos = f'import {self._tree.root}/nix/stand-in/nixos.nix {{ system = "{SYSTEM}"; }}'
        return (
            f"let pkgs = {stand_in}; config = {nixos} [ {self._tree.root}/nix/module "
            f"{{ services.celery-postgres = {{ {options} }}; }} ]; in {wanted}"
        )

    def __call__(self, options: str, wanted: str) -> Any:
        """What a part of the configuration is."""
        return self._tree.evaluate("--impure", "--expr", self.expression(options, wanted))

    def services(self, options: str) -> dict[str, Any]:
        """The units."""
        found: dict[str, Any] = self(options, "config.systemd.services")
        return found

    def script(self, options: str, unit: str) -> str:
        """What the script is made of that a unit starts: its derivation."""
        show = "path: builtins.readFile (builtins.head (builtins.attrNames (builtins.getContext path)))"
        text: str = self(options, f"({show}) config.systemd.services.{unit}.serviceConfig.ExecStart")
        return text

    def refused(self, options: str) -> str:
        """The error of a configuration that cannot be."""
        failed = self._tree.attempt("--impure", "--expr", self.expression(options, "config.systemd.services"))
        assert failed.returncode != 0
        return failed.stderr

    def failed_assertions(self, options: str) -> list[str]:
        """What NixOS would print instead of building."""
        wanted = "map (each: each.message) (builtins.filter (each: !each.assertion) config.assertions)"
        found: list[str] = self(options, wanted)
        return found


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, _nix: None) -> Machine:
    return Machine(Tree(tmp_path_factory.mktemp("module") / "tree"))


def test_there_are_the_units_that_were_asked_for(machine: Machine) -> None:
    found = machine.services(LOCAL + WORKERS)
    workers = {"celery-worker-mail", "celery-worker-reports"}
    others = {"celery-roles", "celery-migrate", "celery-beat", "celery-console", "celery-front"}
    assert set(found) == others | workers
    assert machine.failed_assertions(LOCAL + WORKERS) == []
    assert machine("enable = false; workers.x = { };", "config.systemd.services") == {}


def test_a_worker_has_its_words_and_its_time(machine: Machine) -> None:
    service = machine.services(LOCAL + WORKERS)["celery-worker-reports"]
    assert service["serviceConfig"]["TimeoutStopSec"] == 3615
    assert service["serviceConfig"]["EnvironmentFile"] == ["/run/reports.env"]
    assert service["environment"]["LANG"] == "C.UTF-8"
    script = machine.script(LOCAL + WORKERS, "celery-worker-mail")
    words = "--pool threads --loglevel INFO --concurrency 8 --queues mail,news --hostname mail@%h"
    assert f"exec celery --app mine worker {words}" in script
    assert "--max-tasks-per-child 100" in machine.script(LOCAL + WORKERS, "celery-worker-reports")
    assert "beat '--pidfile=' " in machine.script(LOCAL + WORKERS, "celery-beat")
    words = "console --host 127.0.0.1 --port 8787 --allowed-host tasks.example --trusted-proxy 10.0.0.5"
    assert f"exec celery --app mine {words}" in machine.script(LOCAL + WORKERS, "celery-console")
    assert "exec uvicorn mine:asgi --host 127.0.0.1 --port 8000" in machine.script(LOCAL + WORKERS, "celery-front")


def test_nothing_starts_before_the_first_attempt_to_migrate(machine: Machine) -> None:
    found = machine.services(LOCAL + WORKERS)
    for name in ("celery-worker-mail", "celery-beat", "celery-front"):
        assert "celery-migrate.service" in found[name]["after"]
        assert "celery-migrate.service" in found[name]["wants"]
    assert {"postgresql.target", "celery-roles.service"} <= set(found["celery-migrate"]["after"])
    assert "celery-migrate" not in machine.services(LOCAL + WORKERS + "migrate = [ ];")


def test_a_secret_is_a_credential_and_never_a_variable(machine: Machine) -> None:
    options = MINIMAL + WORKERS + 'database = { urlFile = "/run/url"; migrationUrlFile = "/run/owner"; };'
    found = machine.services(options)
    loaded = {name: service["serviceConfig"]["LoadCredential"] for name, service in found.items()}
    assert loaded.pop("celery-migrate") == "database-url:/run/owner"
    assert set(loaded.values()) == {"database-url:/run/url"}
    assert all("DATABASE_URL" not in service["environment"] for service in found.values())
    assert "celery-roles" not in found, "nobody is named who may make them"
    assert "celery-roles" in machine.services(MINIMAL + 'database = { urlFile = "/u"; adminUrlFile = "/a"; };')


def test_the_roles_get_their_rights_after_each_migration(machine: Machine) -> None:
    """By no program that has the URL among its arguments, and not with the workers' URL."""
    alone, grant = "export CELERY_BROKER_URL=", "python -m celery_postgres roles --run /roles.sql"
    separate = MINIMAL + 'database = { urlFile = "/run/url"; migrationUrlFile = "/run/owner"; };'
    for options in (LOCAL, separate):
        script = machine.script(options, "celery-migrate")
        assert script.index(alone) < script.index("python -m celery_postgres migrate") < script.index(grant)
    assert grant in machine.script(LOCAL, "celery-roles")
    for options in (separate.replace('"/roles.sql"', "null"), MINIMAL + 'database.urlFile = "/run/url";'):
        assert grant not in machine.script(options, "celery-migrate")
    admin = MINIMAL + 'database = { urlFile = "/u"; adminUrlFile = "/a"; };'
    assert "psql" not in machine.script(admin, "celery-roles") + machine.script(admin, "celery-migrate")


def test_unusual_names_and_no_process_but_workers(machine: Machine) -> None:
    options = (
        MINIMAL
        + """
        database.urlFile = "/run/my secrets/url";
        environment.GREETING = "50% of \\"a\\" $HOME";
        workers."a-b.c_d" = { queues = [ "it's" "with space" ]; };
        workers.second.queues = [ "it's" ];
        console = { enable = true; address = "::"; environment.CELERY_CONSOLE_KEYS = "x"; };
    """
    )
    assert set(machine.services(options)) == {
        "celery-migrate", "celery-console", "celery-worker-a-b.c_d", "celery-worker-second"
    }  # fmt: skip
    assert machine.failed_assertions(options) == []
    script = machine.script(options, '"celery-worker-a-b.c_d"')
    assert "--queues 'it'\\''s,with space' --hostname a-b.c_d@%h" in script.replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (MINIMAL, "set one of createLocally and urlFile"),
        (LOCAL + 'database.urlFile = "/run/url";', "set one of createLocally and urlFile"),
        (LOCAL + 'database.adminUrlFile = "/run/url";', "are for a remote database"),
        (LOCAL + "front.enable = true;", "the application's front has no command"),
        (LOCAL + 'workers."a b" = { };', "a name has letters"),
        (LOCAL + "workers.a.metricsPort = 1; workers.b.metricsPort = 1;", "are all different"),
        (LOCAL + 'console.enable = true; front = { enable = true; command = [ "x" ]; port = 8787; };', "all different"),
        (LOCAL + 'workers.a.queues = [ "a,b" ];', "the name of a queue"),
        (LOCAL + 'migrationUser = "celery";', "are one account"),
        (LOCAL + 'database.name = "a b";', "database.name: letters"),
        (LOCAL.replace('"/roles.sql"', "null"), "a local database needs the roles"),
        (LOCAL + 'console = { enable = true; address = "0.0.0.0"; };', "it needs CELERY_CONSOLE_KEYS"),
        (LOCAL + "metrics.scrape = true; workers.a = { };", "no worker has a metricsPort"),
    ],
)
def test_what_contradicts_itself_is_one_line(machine: Machine, options: str, message: str) -> None:
    (found,) = machine.failed_assertions(options)
    assert message in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("enable = true; database.createLocally = true; beat.enable = true;", "has no value defined"),
        (LOCAL + 'workers.a.pool = "process";', "workers.a.pool' is not of type `one of"),
        (LOCAL + "workers.a.concurency = 3;", "workers.a.concurency' does not exist"),
        (LOCAL + "workers.a.concurrency = 0;", "is not of type `null or positive integer"),
    ],
)
def test_a_wrong_option_is_named(machine: Machine, options: str, message: str) -> None:
    assert message in machine.refused(options)


def test_prometheus_reads_each_worker_that_has_a_port(machine: Machine) -> None:
    found = machine(LOCAL + WORKERS + "metrics.scrape = true;", "config.services.prometheus")
    (job,) = found["scrapeConfigs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:9540"]}]
    text = (CHECKOUT / "ops/prometheus/prometheus.yml").read_text()
    assert f"job_name: {job['job_name']}\n" in text
    assert f"scrape_timeout: {job['scrape_timeout']}\n" in text
    assert found["ruleFiles"][0].endswith("celery.rules.yml")


def test_the_examples_units_say_the_same(machine: Machine) -> None:
    """The guide without NixOS, and the module: the same times, signals and restarts."""
    found = machine.services(LOCAL + "workers.one = { }; beat.enable = true;")
    for example, unit in (("celery-worker", "celery-worker-one"), ("celery-beat", "celery-beat")):
        text = (CHECKOUT / f"examples/deployment/{example}.service").read_text()
        written = dict(re.findall(r"^(KillMode|OOMPolicy|Restart|RestartSec|TimeoutStopSec)=(.*)$", text, re.MULTILINE))
        ours = {name: str(found[unit]["serviceConfig"][name]) for name in written}
        assert ours == {name: {"10min": "600", "30s": "30"}.get(value, value) for name, value in written.items()}


def test_systemd_understands_every_unit_and_rates_it_as_little_exposed(
    machine: Machine, program: Callable[[str], str], tmp_path: Path
) -> None:
    for name, service in machine.services(LOCAL + WORKERS).items():
        service["serviceConfig"] |= {"ExecStart": "/bin/true", "User": "root", "EnvironmentFile": []}
        unit = tmp_path / f"{name}.service"
        unit.write_text(unit_text(service))
        for words in (["verify", unit], ["security", "--offline=true", "--threshold=20", unit]):
            done = subprocess.run(
                [program("systemd-analyze"), *map(str, words)], capture_output=True, text=True, timeout=60, check=False
            )
            complaints = [line for line in done.stderr.splitlines() if ".service not found" not in line]
            assert (done.returncode, complaints) == (0, []), json.dumps(service, indent=1)


def test_the_example_is_a_configuration(tree: Tree) -> None:
    machine = tree.root / "nix/stand-in/machine.json"
    described = json.loads(machine.read_text())
    described["python"]["packages"] |= {"celery-postgres": "1", "starlette": "1"}  # the overlay's, and nixpkgs'
    machine.write_text(json.dumps(described))
    example = CHECKOUT / "examples/deployment/nixos.nix"
    nixos = f'import {tree.root}/nix/stand-in/nixos.nix {{ system = "{SYSTEM}"; }}'
    found = tree.evaluate(
        "--impure", "--expr", f"builtins.attrNames ({nixos} [ {tree.root}/nix/module {example} ]).systemd.services"
    )
    workers = ["celery-worker-quick", "celery-worker-reports"]
    assert found == ["celery-beat", "celery-console", "celery-migrate", "celery-roles", *workers]


def test_the_machines_of_the_vm_test_can_be(tree: Tree) -> None:
    found = tree.imported(
        "builtins.mapAttrs (_: machine: { units = builtins.attrNames machine.systemd.services; "
        "wrong = builtins.filter (each: !each.assertion) machine.assertions; }) "
        "project.nixosTests.celery-postgres.nodes"
    )
    assert {name: node["wrong"] for name, node in found.items()} == {"server": [], "one": [], "two": []}
    assert found["server"]["units"] == ["celery-beat", "celery-migrate", "celery-roles"]
    assert found["one"]["units"] == ["celery-worker-main"]
