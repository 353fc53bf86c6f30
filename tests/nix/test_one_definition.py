"""nix/default.nix names the PostgreSQL major and the Python minor; whoever has to repeat them is held to it."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib

import pytest

from environment.installation import DEFAULT_MAJOR
from environment.sources import CHECKOUT

DEFINITION = (CHECKOUT / "nix/default.nix").read_text()
PYTHON = re.search(r"^  python = pkgs\.python(3)(\d+);$", DEFINITION, re.MULTILINE)
POSTGRESQL = re.search(r"^  postgresql = pkgs\.postgresql_(\d+);$", DEFINITION, re.MULTILINE)
FOLDERS = ("nix", "nix/checks", "nix/module")
NIX_FILES = [CHECKOUT / "flake.nix", *(path for folder in FOLDERS for path in (CHECKOUT / folder).glob("*.nix"))]
#: The extras whose packages nix/default.nix asks for.
NIX_EXTRAS = re.findall(r"requirements \[ \"([\w-]+)\" \]", DEFINITION)


def tracked_text() -> dict[str, str]:
    """Every tracked file but locks and images."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    other = ("requirements/", "docs/images/")
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith(other)]
    return {name: (CHECKOUT / name).read_text() for name in names if (CHECKOUT / name).is_file()}


def procfile() -> dict[str, str]:
    lines = (CHECKOUT / "Procfile").read_text().splitlines()
    return dict(re.split(r":\s*", line, maxsplit=1) for line in lines if line)


def test_the_definition_can_be_read() -> None:
    assert PYTHON is not None
    assert POSTGRESQL is not None


def test_the_default_major_is_that_of_the_definition() -> None:
    assert POSTGRESQL is not None
    assert int(POSTGRESQL[1]) == DEFAULT_MAJOR


#: Tries the package on every version that it supports, which packages/celery-postgres/versions.toml lists.
MATRIX = ".github/workflows/matrix.yml"


def test_every_image_of_postgres_is_of_that_major() -> None:
    wrong = [
        (name, found[0])
        for name, text in tracked_text().items()
        if name != MATRIX and not name.startswith("examples/")
        for found in re.finditer(r"\bimage:\s*postgres:(\S+)", text)
        if found[1] != str(DEFAULT_MAJOR)
    ]
    assert wrong == []


def test_every_python_that_a_workflow_installs_is_of_that_minor() -> None:
    assert PYTHON is not None
    wanted = f'"{PYTHON[1]}.{PYTHON[2]}"'
    workflows = (CHECKOUT / ".github/workflows").glob("*.yml")
    found = {
        line.split(":", 1)[1].strip()
        for workflow in workflows
        if not str(workflow).endswith((MATRIX, "release.yml"))
        for line in workflow.read_text().splitlines()
        if "python-version:" in line
    }
    assert found == {wanted}


def test_the_lock_pins_what_the_flake_names() -> None:
    lock = json.loads((CHECKOUT / "flake.lock").read_text())
    assert lock["version"] == 7
    node = lock["nodes"]["nixpkgs"]
    original = node["original"]
    url = f"{original['type']}:{original['owner']}/{original['repo']}/{original['ref']}"
    assert f'inputs.nixpkgs.url = "{url}";' in (CHECKOUT / "flake.nix").read_text()
    assert set(lock["nodes"]) == {"nixpkgs", "root"}
    assert re.fullmatch(r"[0-9a-f]{40}", node["locked"]["rev"])
    assert re.fullmatch(r"sha256-[A-Za-z0-9+/]{43}=", node["locked"]["narHash"])


def test_packages_txt_lists_the_names_that_our_nix_code_takes_from_nixpkgs() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert NIX_EXTRAS == ["test", "otel"]
    extras = [requirement for extra in NIX_EXTRAS for requirement in project["optional-dependencies"][extra]]
    names = {re.split(r"[^A-Za-z0-9._-]", each)[0].lower() for each in project["dependencies"] + extras}
    used = {f"python313Packages.{name.removesuffix('-binary')}" for name in names}
    formals = re.search(r"^\{\n(.*?)\}:", (CHECKOUT / "nix/celery-postgres.nix").read_text(), re.MULTILINE | re.DOTALL)
    assert formals is not None
    used |= {f"python313Packages.{name}" for name in re.findall(r"[\w-]+", formals[1]) if name != "lib"}
    for path in NIX_FILES:
        code = re.sub(r"\bpkgs\.lib\.", "lib.", re.sub(r"#.*", "", path.read_text()))
        used |= set(re.findall(r"(?<![.\w])pkgs\.([\w-]+)", code))
        used |= {f"python313Packages.{name}" for name in re.findall(r"\bpython\.pkgs\.([\w-]+)", code)}
        used |= {f"lib.{name}" for name in re.findall(r"(?<![.\w])(?:nixpkgs\.)?lib\.([\w-]+)", code)}
    used.remove("python313Packages.celery-postgres")  # ours, where the overlay has put it
    assert used == set((CHECKOUT / "nix/packages.txt").read_text().split())


def test_replit_nix_has_the_one_shape_that_its_editor_accepts() -> None:
    text = (CHECKOUT / "replit.nix").read_text()
    element = r"(?:pkgs\.[\w.-]+|\(import \./nix \{ \}\)\.[\w-]+)"
    assert re.fullmatch(rf"{{ pkgs }}:\s*{{\s*deps = \[(?:\s*{element})+\s*\];\s*}}\s*", text)


def test_replit_starts_everything_and_passes_requests_on() -> None:
    settings = tomllib.loads((CHECKOUT / ".replit").read_text())
    assert settings["run"] == settings["deployment"]["run"] == ["ops/replit/start"]
    assert settings["deployment"] == {"deploymentTarget": "vm", "run": settings["run"]}
    assert settings["ports"] == [{"localPort": 8000, "externalPort": 80}]
    assert "PORT:-8000" in (CHECKOUT / "ops/replit/start").read_text()
    assert not [module for module in settings["modules"] if "python" in module]


def test_procfile_starts_what_the_contract_names() -> None:
    assert "-A app.celery_app.celery_app worker -P solo -c 1 --loglevel=INFO" in procfile()["worker"]


@pytest.mark.parametrize(
    "name", ["flake.nix", "default.nix", "shell.nix", "replit.nix", ".replit", ".envrc", "Procfile"]
)
def test_nothing_of_the_environment_names_another_broker(name: str) -> None:
    assert not re.search("redis|rabbit|amqp", (CHECKOUT / name).read_text(), re.IGNORECASE)


def test_the_shell_and_the_definition_have_no_second_postgresql() -> None:
    """Starting PostgreSQL and workers is the business of environment/, in whatever language Nix or a script is."""
    scripts = [*NIX_FILES, CHECKOUT / "dev", *(path for path in (CHECKOUT / ".ci").iterdir() if path.is_file())]
    for path in scripts:
        assert not re.search(r"\b(initdb|pg_ctl)\b", re.sub(r"#.*", "", path.read_text())), path
